/* The cell's equations, in one or two lines, as in backends/reference/cells.py.
 *
 * A copy of this file, called as the cell in spec.py, with its name for `template` and TEMPLATE (see *A new cell* in
 * CONTRIBUTING.md). This one leaves h = a and is compiled nowhere.
 */

/* How many stages the forward equation has: an activation each, and what follows from it. */
enum { TEMPLATE_STAGES = 1 };

/* Takes one stage of n rows, side by side. Column k of the tile, as the table's phase has them, comes by take_column;
 * u->h is h_prev until the last stage, which leaves h there; u->c likewise, if the cell has a c. What the backward pass
 * reads goes to u->saved[TEMPLATE_...], by the names in the table. `o` is for cells whose activations may be chosen:
 * they take activate(o, role, ...) for vsigmoid and vtanh, and d_activate for the derivatives. Of a cell of two phases the last stage
 * is the second. */
INLINE void template_forward(const fr_options *o, const int stage, const int n, forward_units *u) {
    (void)o;
    switch (stage) {
    case 0:
        take_column(n, u, 0, u->h);
    }
}

/* From dh (and dc) to the gradients of the columns, u->d, and, if the cell carries, of h_prev beside the recurrent
 * product, u->carry. Derivatives of activations go by their results: d_sigmoid(s), d_tanh(t). */
INLINE void template_backward(const fr_options *o, backward_units *u) {
    (void)o;
    u->d[0] = u->dh;
}
