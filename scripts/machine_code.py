"""Reads what `nvdisasm --print-code` writes: the functions of a cubin, what their instructions do, and their loops."""

import re
from collections import Counter

FUNCTION = re.compile(r"\s*\.type\s+(\S+),@function")
LABEL = re.compile(r"([.$\w]+):\s*$")
INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]+)\*/\s+(?:\{\s*)?(@!?U?P\w+\s+)?([A-Z][\w.]*)\s*(.*?)\s*;?\s*\}?\s*$")
TARGET = re.compile(r"`\(([^)]+)\)")
REGISTER = re.compile(r"\bU?R(\d+)\b")

# Instructions that go elsewhere; BRX, by a table, goes to any label of its function.
JUMPS = ("BRA", "BRX", "JMP")
ENDS = ("EXIT", "RET")


class Instruction:
    """One instruction: `op` is its name with all suffixes, `args` its operands as written."""

    def __init__(self, address, predicated, op, args):
        self.address, self.predicated, self.op, self.args = address, predicated, op, args
        self.name, *self.suffixes = op.split(".")

    def width(self):
        """Bits that a load or store moves for a thread."""
        for suffix in self.suffixes:
            if suffix in ("64", "128"):
                return int(suffix)
            if re.fullmatch(r"[US](8|16)", suffix):
                return int(suffix[1:])
        return 32

    def loads(self):
        """Whether it brings something from global memory, as far as one can see, into a register."""
        return self.name in ("LDG", "LD")

    def written(self):
        """Registers that a load writes."""
        found = REGISTER.search(self.args.split("[")[0])
        return set() if found is None else {int(found[1]) + i for i in range(max(1, self.width() // 32))}

    def read(self):
        """Registers that it names, without the first where that is its result."""
        operands = self.args if self.name.startswith(("ST", "RED", "BRX", "RET")) else self.args.partition(",")[2]
        if self.name.startswith("LD"):
            operands = self.args[self.args.find("[") :]
        found = set()
        for match in REGISTER.finditer(operands):
            if match[0].startswith("U"):
                continue
            first = int(match[1])
            found.add(first)
            # Operands of several registers are named by the first of them.
            wide = {"HMMA": 4, "DADD": 2, "DMUL": 2, "DFMA": 2, "DSETP": 2}.get(self.name, 1)
            if self.name.startswith("ST"):
                wide = max(1, self.width() // 32)
            found.update(first + i for i in range(wide))
        return found


class Function:
    """A kernel, or a function that it calls: `kernel` is the same as `name` for the kernel itself."""

    def __init__(self, kernel, name):
        self.kernel, self.name = kernel, name
        self.instructions, self.labels = [], {}

    def counts(self):
        """How often each kind of instruction occurs, and of loads each width."""
        counts = Counter()
        for i in self.instructions:
            counts[i.name] += 1
            if i.name in ("LDG", "LDS", "LD", "STG"):
                counts[i.name, i.width()] += 1
            if "SPIN" in i.suffixes:
                counts["SPIN"] += 1
        return counts

    def blocks(self):
        """Where each straight run of instructions begins and ends, and which runs follow it."""
        starts = {0} | set(self.labels.values())
        for n, i in enumerate(self.instructions):
            if i.name in JUMPS + ENDS:
                starts.add(n + 1)
        starts = sorted(s for s in starts if s < len(self.instructions))
        of = {start: b for b, start in enumerate(starts)}
        ends = starts[1:] + [len(self.instructions)]
        follow = []
        for b, end in enumerate(ends):
            last, next_ones = self.instructions[end - 1], []
            if last.name == "BRX":
                next_ones = [of[at] for at in self.labels.values() if at in of]
            elif last.name in JUMPS:
                target = TARGET.search(last.args)
                at = self.labels.get(target[1]) if target else None
                if at in of:
                    next_ones = [of[at]]
            conditional = last.predicated or "DIV" in last.suffixes
            conditional |= last.name == "BRA" and re.match(r"!?U?P\d", last.args) is not None
            if (last.name not in JUMPS + ENDS or conditional) and b + 1 < len(starts):
                next_ones.append(b + 1)
            follow.append(sorted(set(next_ones)))
        return list(zip(starts, ends)), follow

    def loops(self):
        """The loops, each as its instructions in their order, with whether they are in no loop within it."""
        blocks, follow = self.blocks()
        dominators = dominators_of(follow)
        before = [[] for _ in blocks]
        for b, next_ones in enumerate(follow):
            for n in next_ones:
                before[n].append(b)
        bodies = {}
        for b, next_ones in enumerate(follow):
            for head in next_ones:
                if dominators[b] >> head & 1:
                    body, open_ones = {head}, [b]
                    while open_ones:
                        block = open_ones.pop()
                        if block not in body:
                            body.add(block)
                            open_ones.extend(before[block])
                    bodies.setdefault(head, set()).update(body)
        found = []
        for head, body in bodies.items():
            inner = set().union(*(other for h, other in bodies.items() if h != head and h in body))
            found.append([(i, b not in inner) for b in sorted(body) for i in self.instructions[slice(*blocks[b])]])
        return found


def dominators_of(follow):
    """For each block the set, as bits, of blocks that every way to it goes through. Unreached blocks have all."""
    everything = (1 << len(follow)) - 1
    before = [[] for _ in follow]
    for b, next_ones in enumerate(follow):
        for n in next_ones:
            before[n].append(b)
    dominators = [1] + [everything] * (len(follow) - 1)
    changed = True
    while changed:
        changed = False
        for b in range(1, len(follow)):
            common = everything
            for p in before[b]:
                common &= dominators[p]
            common |= 1 << b
            if common != dominators[b]:
                dominators[b], changed = common, True
    return dominators


def ahead(loop):
    """The most loads of a loop that are issued one after the other before anything reads what one of them brought.

    The instructions are taken in the order of their addresses, whatever conditions some stand under."""
    most, waiting, issued = 0, set(), 0
    # Twice, for loads that are used in the next round.
    for i, own in loop + loop:
        if waiting & i.read():
            waiting, issued = set(), 0
        if own and i.loads():
            issued += 1
            waiting |= i.written()
        most = max(most, issued)
    return min(most, sum(own and i.loads() for i, own in loop))


def hot(function):
    """Of the loop that brings the most from global memory in a round of its own: loads, bytes, loads `ahead`, and all
    instructions of a round."""
    best = (0, 0, 0, 0)
    for loop in function.loops():
        widths = [i.width() // 8 for i, own in loop if own and i.loads()]
        if sum(widths) > best[1]:
            best = (len(widths), sum(widths), ahead(loop), sum(own for _, own in loop))
    return best


def functions(text):
    """The functions of a disassembled cubin."""
    found, kernel = [], None
    for line in text.splitlines():
        if match := FUNCTION.match(line):
            name = match[1]
            if not name.startswith("$"):
                kernel = name
            found.append(Function(kernel, name))
        elif (match := INSTRUCTION.match(line)) and found:
            address, predicate, op, args = match.groups()
            found[-1].instructions.append(Instruction(int(address, 16), predicate is not None, op, args))
        elif (match := LABEL.match(line)) and found:
            found[-1].labels[match[1]] = len(found[-1].instructions)
    return found
