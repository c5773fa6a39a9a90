"""The product loops in a disassembly, found by what they do, whatever their functions are called.

A product loop is an innermost loop whose vector multiply-adds continue sums: a register, or a place in memory, that an
iteration finds, adds to and leaves. Within its body every register is followed as a value: what it was loaded from,
copied from, multiplied with. So an operand counts once however often it is loaded, and rows (broadcasts, scalars,
lanes) are told from columns (whole vectors). x86-64 in AT&T syntax and AArch64, as GNU objdump prints them.
"""

import re
import subprocess
from dataclasses import dataclass
from functools import cached_property

FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(\S.*)$")
COMMENT = re.compile(r"\s+(?:# |//).*$")
PREFIX = re.compile(r"^(?:cs|ds|data16|notrack|bnd|rep|repz|lock)\s+")
JUMP = re.compile(r"^(?:j[a-z]+|b(?:\.[a-z]+)?|cbn?z|tbn?z)$")
LEAVE = re.compile(r"^(?:call|ret|bl|blr|br|ud2|hlt|syscall|svc)")
NO_EFFECT = re.compile(r"^(?:nop|endbr|prefetch|prfm|cmp|cmn|test|tst|u?comis|fcmp)")
GENERAL = re.compile(r"^(?:r(?:[a-d]x|[sd]i|[sb]p|\d+)|x\d+|sp)$")


@dataclass(frozen=True)
class Instruction:
    address: int
    name: str
    operands: tuple[str, ...]
    text: str

    @property
    def target(self):
        """Where a jump goes, or None."""
        if not JUMP.match(self.name) or not self.operands:
            return None
        match = re.match(r"(?:0x)?([0-9a-f]+)(?: <.*)?$", self.operands[-1])
        return int(match[1], 16) if match else None


def split_operands(text):
    """Operands, cut at the commas outside brackets."""
    parts, depth, start = [], 0, 0
    for i, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and not depth:
            parts.append(text[start:i].strip())
            start = i + 1
    return (*parts, text[start:].strip()) if text else ()


def instructions(text):
    """The (function, Instruction) pairs of a disassembly."""
    function = ""
    for line in text.splitlines():
        if header := FUNCTION.match(line):
            function = header[1]
        elif match := INSTRUCTION.match(line):
            code = PREFIX.sub("", COMMENT.sub("", match[2]).strip())
            name, *operands = code.split(maxsplit=1)
            yield function, Instruction(int(match[1], 16), name, split_operands("".join(operands)), code)


def register(operand):
    """One name for all views of a register: rax, x3, v7; else None."""
    name = operand.lstrip("%").split("{")[0].strip()
    if match := re.match(r"^(?:[xyz]mm|[vqdsb])(\d+)(?:\.\w+)?(?:\[\d+\])?$", name):
        return f"v{match[1]}"
    if match := re.match(r"^(?:[er])?([a-d]x|[sd]i|[sb]p)$", name):
        return "sp" if match[1] == "sp" else f"r{match[1]}"
    if match := re.match(r"^r(\d+)[dwb]?$", name):
        return f"r{match[1]}"
    if match := re.match(r"^[xw](\d+|zr)$", name):
        return f"x{match[1]}"
    return name if name in ("sp", "wsp", "rip") else None


def number(text):
    value = int(text.lstrip("#$"), 0)
    return value - (1 << 64) if value >= 1 << 63 else value


def is_memory(operand):
    return "(" in operand or operand.startswith("[")


@dataclass
class Sum:
    """A chain of multiply-adds: what it starts from, and how many there are."""

    root: tuple
    length: int = 0


@dataclass
class Loop:
    function: str
    body: list[Instruction]
    level: str = ""
    dtype: str = ""
    fmas: int = 0
    sums: int = 0  # kept from one iteration to the next, in registers or in memory
    sums_in_memory: int = 0
    row_operands: int = 0  # distinct ones that an iteration uses
    column_operands: int = 0
    loads: int = 0
    stores: int = 0
    stack_loads: int = 0
    moves: int = 0  # vector register to vector register

    @property
    def unroll(self):
        """The values of k in an iteration."""
        return self.fmas / self.sums

    @cached_property
    def tile(self):
        """(rows, columns). From the operands where they multiply to the number of sums; else, where a sum's operands
        cannot be told apart, the two factors of that number with the least sum, which asks the most of a loop."""
        rows, columns = self.row_operands / self.unroll, self.column_operands / self.unroll
        if rows * columns == self.sums and rows == int(rows):
            return int(rows), int(columns)
        return min(((r, self.sums // r) for r in range(1, self.sums + 1) if self.sums % r == 0), key=sum)

    @property
    def loads_per_k(self):
        return self.loads / self.unroll

    @property
    def spills(self):
        """Whether anything is kept in memory: a product stores nothing, and reads nothing from the stack."""
        return self.stores + self.stack_loads > 0

    def fault(self):
        """What is wrong with the loop, or None."""
        faults = []
        if self.loads_per_k > sum(self.tile):
            faults.append(f"loads {self.loads_per_k:g} operands per k")
        if self.spills:
            faults.append(f"spills: {self.stores} stores, {self.stack_loads} loads from the stack")
        if self.fmas % self.sums:
            faults.append(f"{self.fmas} multiply-adds continue {self.sums} sums unevenly")
        return "; ".join(faults) or None

    def __str__(self):
        rows, columns = self.tile
        return (
            f"{self.level} {self.dtype} {rows} x {columns} in {self.function} at {self.body[0].address:#x}: "
            f"{self.fmas / self.unroll:g} multiply-adds, {self.loads_per_k:g} loads per k"
        )


class Follower:
    """Follows values through a loop's body, once, and counts.

    A value is a tuple: ("start", register), what the iteration finds; ("linear", terms, constant), an address;
    ("load", kind, place), kind "vector", "scalar" or "broadcast"; ("lane", value, which); ("product", a, b);
    ("sum", n), the n-th of `chains`; ("other", n), unknown.
    """

    def __init__(self, function):
        self.loop = Loop(function, [])
        self.values, self.memory, self.chains = {}, {}, []
        self.operands = set()
        self.others = self.multiply_adds = 0
        self.squares = False

    # Values

    def get(self, name):
        return self.values.setdefault(name, ("linear", ((name, 1),), 0) if GENERAL.match(name) else ("start", name))

    def other(self):
        self.others += 1
        return ("other", self.others)

    def add(self, a, b, factor=1):
        """Of two addresses or indices, a + factor * b."""
        terms, constant = dict(self.linear(a)[1]), self.linear(a)[2]
        for term, count in self.linear(b)[1]:
            terms[term] = terms.get(term, 0) + factor * count
        kept = tuple(sorted(((t, c) for t, c in terms.items() if c), key=repr))
        return ("linear", kept, constant + factor * self.linear(b)[2])

    @staticmethod
    def linear(value):
        return value if value[0] == "linear" else ("linear", ((value, 1),), 0)

    @staticmethod
    def constant(n):
        return ("linear", (), n)

    # Memory

    def place(self, operand):
        """The address that a memory operand stands for."""
        if "(" in operand:
            match = re.match(r"(?:%[fg]s:)?([^(]*)\((%\w+)?(?:,(%\w+)(?:,(\d+))?)?\)", operand)
            place = self.constant(number(match[1]) if re.match(r"^-?0x[0-9a-f]+$|^-?\d+$", match[1]) else 0)
            for name, scale in ((match[2], 1), (match[3], int(match[4] or 1))):
                if name:
                    place = self.add(place, self.get(register(name)), scale)
            return place
        inner = split_operands(operand[1 : operand.index("]")])
        place = self.get(register(inner[0]))
        if len(inner) > 1 and inner[1].startswith("#"):
            place = self.add(place, self.constant(number(inner[1])))
        elif len(inner) > 1:
            shift = re.search(r"#(\d+)", inner[2]) if len(inner) > 2 else None
            place = self.add(place, self.get(register(inner[1])), 1 << int(shift[1]) if shift else 1)
        return place

    def load(self, operand, kind, offset=0):
        place = self.add(self.place(operand), self.constant(offset))
        self.loop.loads += 1
        self.loop.stack_loads += any(term == "sp" for term, _ in place[1])
        return self.memory.get(place, ("load", kind, place))

    def store(self, operand, value, offset=0):
        self.loop.stores += 1
        self.memory[self.add(self.place(operand), self.constant(offset))] = value

    def read(self, operand, kind="vector"):
        """The value of a source operand."""
        if is_memory(operand):
            return self.load(operand, "broadcast" if "{1to" in operand else kind)
        if operand[0] in "$#":
            return self.constant(number(operand)) if re.match(r"^[$#]-?\w+$", operand) else self.other()
        name = register(operand)
        if not name:
            return self.other()
        lane = re.search(r"\[(\d+)\]$", operand)
        return ("lane", self.get(name), lane[1]) if lane else self.get(name)

    def write(self, operand, value):
        if is_memory(operand):
            self.store(operand, value)
        elif name := register(operand):
            self.values[name] = value

    # Multiply-adds

    def multiply_add(self, a, b, addend):
        """The value of addend + a * b."""
        self.multiply_adds += 1
        self.squares |= a == b
        self.operands |= {a, b}
        if addend[0] != "sum":
            self.chains.append(Sum(addend))
            addend = ("sum", len(self.chains) - 1)
        self.chains[addend[1]].length += 1
        return addend

    def finish(self):
        """The Loop, if what has been followed is one, else None."""
        loop = self.loop
        for n, chain in enumerate(self.chains):
            kind, where = chain.root[0], chain.root[-1]
            in_register = kind == "start" and self.values.get(where) == ("sum", n)
            in_memory = kind == "load" and self.memory.get(where) == ("sum", n)
            loop.sums += in_register or in_memory
            loop.sums_in_memory += in_memory
            loop.fmas += chain.length if in_register or in_memory else 0
        loop.row_operands = sum(is_row(v) for v in self.operands)
        loop.column_operands = sum(v[:2] == ("load", "vector") for v in self.operands)
        product = 2 * loop.fmas > self.multiply_adds and loop.loads > 0
        reads = all(v[0] != "product" for v in self.operands)  # a product of matrices multiplies what it reads
        return loop if product and reads and not self.squares else None


def is_row(value):
    return value[0] == "lane" or value[0] == "load" and value[1] != "vector"


class X86(Follower):
    MOVES = re.compile(r"^mov(?:[au]p[sd]|dq[au](?:8|16|32|64)?|nt\w+)$|^lddqu$")
    SCALARS = re.compile(r"^(?:mov(?:s[sd]|d|q)|movlp[sd])$")
    BROADCASTS = re.compile(r"^p?broadcast(?:s[sd]|[dq])$|^movddup$")
    SHUFFLES = re.compile(r"^(?:shufp[sd]|pshufd|permilp[sd]|(?:p?unpck|mov)[lh]\w+)$")
    FMA = re.compile(r"^vfmadd(132|213|231)(p[sd])$")
    LEVELS = {"z": "v4", "y": "v3", "x": "v2"}

    def step(self, instruction):
        name, operands = instruction.name, instruction.operands
        if NO_EFFECT.match(name) or not operands:
            if not name.startswith(("prefetch", "nop")):
                for operand in operands:
                    self.read(operand)
        elif any("%" in o and "mm" in o for o in operands):
            self.vector(name, operands)
        else:
            self.general(name, operands)

    def vector(self, name, operands):
        *sources, target = operands
        bare = name.removeprefix("v")
        if match := self.FMA.match(name):
            self.describe(match[2], target)
            first, second, third = self.read(sources[0]), self.read(sources[1]), self.read(target)
            order = {"231": (first, second, third), "213": (second, third, first), "132": (first, third, second)}
            value = self.multiply_add(*order[match[1]])
        elif self.MOVES.match(bare):
            self.loop.moves += not any(map(is_memory, operands))
            value = self.read(sources[0])
        elif self.SCALARS.match(bare) and len(sources) == 1 and any(map(is_memory, operands)):
            value = self.read(sources[0], "scalar")
        elif self.BROADCASTS.match(bare):
            value = self.read(sources[0], "broadcast")
            value = value if is_memory(sources[0]) else ("lane", value, bare)
        elif self.SHUFFLES.match(bare):
            value = self.shuffle(bare, sources, target)
        elif match := re.match(r"^(mul|add)(p[sd])$", bare):
            values = [self.read(o) for o in (sources if len(sources) == 2 else operands)]
            value = self.arithmetic(match[1], match[2], target, values)
        else:
            for operand in sources:
                self.read(operand)
            value = self.other()
        self.write(target, value)

    def shuffle(self, name, sources, target):
        """Lanes of one register are known as such; a mixture of two is not."""
        registers = [o for o in sources if o[0] != "$"]
        if len(registers) == 1 and name not in ("pshufd", "permilps", "permilpd"):
            registers.append(target)
        values = {self.read(o) for o in registers}
        return ("lane", values.pop(), f"{name} {sources[0]}") if len(values) == 1 else self.other()

    def arithmetic(self, operation, kind, target, values):
        if operation == "mul":
            return ("product", *values)
        products = [v for v in values if v[0] == "product"]
        if len(products) != 1:
            return self.other()
        self.describe(kind, target)
        addend = values[1] if values[0] is products[0] else values[0]
        return self.multiply_add(*products[0][1:], addend)

    def describe(self, kind, target):
        self.loop.level, self.loop.dtype = self.LEVELS[target[1]], {"ps": "f32", "pd": "f64"}[kind]

    def general(self, name, operands):
        *sources, target = operands
        kind = name.rstrip("bwlq") if name not in ("sub", "movslq") else name
        if kind == "lea":
            return self.write(target, self.place(sources[0]))
        values = [self.read(o, "scalar") for o in sources]
        if kind in ("mov", "movabs") and values:
            return self.write(target, values[0])
        before = self.read(target, "scalar")
        if kind in ("add", "sub") and len(values) == 1:
            value = self.add(before, values[0], 1 if kind == "add" else -1)
        elif kind in ("inc", "dec"):
            value = self.add(before, self.constant(1 if kind == "inc" else -1))
        else:
            value = self.other()
        self.write(target, value)


class Arm(Follower):
    LANES = re.compile(r"^(v\d+)\.\w+\[(\d+)\]$")

    def step(self, instruction):
        name, operands = instruction.name, instruction.operands
        if NO_EFFECT.match(name) or not operands:
            return
        if name in ("fmla", "fmls") and "." in operands[0]:
            self.loop.level, self.loop.dtype = "neon", "f64" if "d" in operands[0].split(".")[1] else "f32"
            a, b, addend = (self.read(o) for o in (*operands[1:], operands[0]))
            self.write(operands[0], self.multiply_add(a, b, addend))
        elif re.match(r"^(?:ld|st)(?:[rupn]*|[1-4]r?)$", name) and any(map(is_memory, operands)):
            self.transfer(name, operands)
        elif name in ("add", "sub") and len(operands) >= 3 and GENERAL.match(register(operands[0]) or ""):
            shift = re.match(r"^lsl #(\d+)$", operands[3]) if len(operands) > 3 else None
            known = len(operands) == 3 or shift
            factor = (1 if name == "add" else -1) << (int(shift[1]) if shift else 0)
            a, b = self.read(operands[1]), self.read(operands[2])
            self.write(operands[0], self.add(a, b, factor) if known else self.other())
        elif name == "mov" and register(operands[0]):
            vector = register(operands[0])[0] == "v" and "[" not in operands[0]
            self.loop.moves += vector and register(operands[1]) is not None and register(operands[1])[0] == "v"
            self.write(operands[0], self.read(operands[1]) if vector or "[" not in operands[0] else self.other())
        elif name == "dup":
            self.write(operands[0], self.read(operands[1]) if "[" in operands[1] else self.other())
        elif register(operands[0]):
            self.write(operands[0], self.other())

    def transfer(self, name, operands):
        """A load or store of one or more registers, whose address register may advance before or after it."""
        at = next(i for i, o in enumerate(operands) if is_memory(o))
        memory, targets = operands[at], operands[:at]
        if targets[0].startswith("{"):
            targets = expand(targets[0])
        base = register(split_operands(memory[1 : memory.index("]")])[0])
        size = {"q": 16, "v": 16, "d": 8, "x": 8}.get(targets[0][0], 4)
        kind = "broadcast" if name.endswith("1r") else "vector" if size == 16 else "scalar"
        for i, target in enumerate(targets):
            if name.startswith("ld"):
                self.write(target, self.load(memory, kind, i * size))
            else:
                self.store(memory, self.read(target), i * size)
        if memory.endswith("!"):
            self.values[base] = self.place(memory[:-1])
        elif at + 1 < len(operands):
            self.values[base] = self.add(self.get(base), self.read(operands[at + 1]))


def expand(registers):
    """The registers of a list like {v0.4s-v3.4s} or {v0.4s, v1.4s}."""
    inner = registers.strip("{}")
    if "-" in inner:
        first, last = (re.match(r"\s*v(\d+)(\.\w+)", part) for part in inner.split("-"))
        return [f"v{i}{first[2]}" for i in range(int(first[1]), int(last[1]) + 1)]
    return [part.strip() for part in inner.split(",")]


def innermost_loops(text):
    """(function, instructions) of every loop without another jump or a call in it."""
    run, here = [], None  # the instructions since the last one that leads elsewhere
    for function, instruction in instructions(text):
        if function != here:
            run, here = [], function
        run.append(instruction)
        if LEAVE.match(instruction.name) or JUMP.match(instruction.name):
            target = instruction.target
            start = next((i for i, other in enumerate(run) if other.address == target), None)
            if start is not None and instruction.name not in ("jmp", "b"):
                yield function, run[start:]
            run = []


# What puts the lanes of several vectors together: no part of a product, but of weights transposed as they are read.
REARRANGES = re.compile(r"^(?:v?unpck|v?insert|v?movlhp|v?movhlp|v?movhp|vperm[it]2|zip[12])")


def rearranges(instruction):
    """Whether it joins vectors: of a single one the same instructions make a broadcast."""
    operands = instruction.operands
    sources = operands if len(operands) == 2 else operands[:-1]  # of two operands the last is both
    return REARRANGES.match(instruction.name) and len(set(sources)) > 1


# What no product does, but an optimiser's update, whose running means are multiplied and added to.
DIVIDES = re.compile(r"^(?:v?div|v?sqrt|fdiv|fsqrt)")


def product_loops(text):
    """Every product loop of a disassembly, a list of Loop; not those that transpose what they multiply, or divide."""
    found = []
    for function, body in innermost_loops(text):
        if not any(re.match(r"^(?:vfmadd|v?mulp|fmla)", i.name) for i in body):
            continue
        if any(map(rearranges, body)) or any(DIVIDES.match(i.name) for i in body):
            continue
        follower = (X86 if any("%" in i.text for i in body) else Arm)(function)
        for instruction in body[:-1]:
            follower.step(instruction)
        if loop := follower.finish():
            loop.body = body
            found.append(loop)
    return found


def disassemble(path, objdump="objdump"):
    command = [objdump, "-d", "--no-show-raw-insn", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
