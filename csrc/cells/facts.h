/* The table of the cells as the kernels know it, at every level: cells.def as constants. */
#ifndef FR_CELL_FACTS_H
#define FR_CELL_FACTS_H

#include "fastrnn.h"

/* The columns of a tile that x, or h, or what is left, feeds: `count` neighbours from `first` on, each with its gate's
 * place in W. */
typedef struct {
    int first, count, gate[4];
} fr_fed;

typedef struct {
    int gates;    /* rows of a weight per hidden unit */
    int states;   /* 1: h; 2: h and c */
    int saved;    /* values per unit, row and step that the backward pass reads */
    int saved_c;  /* the place of c among them, -1 for none */
    int carries;  /* whether dh reaches the previous h beside the recurrent product */
    int vectors;  /* parameters per unit that it has or may have */
    int columns;  /* of a tile, per block of hidden units */
    int normed;   /* whether its products are normalised: it saves them behind what the equation does */
    fr_fed x, h;
    fr_fed left;  /* what the first phase leaves feeds these; of a cell of one phase none */
} fr_cell_facts;

static const fr_cell_facts fr_cells[FR_CELLS] = {
#define CELL(NAME, name, ...) {__VA_ARGS__},
#include "cells.def"
};

#endif
