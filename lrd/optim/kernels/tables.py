"""What the compiled kernels read: tables of pieces and keys."""

from array import array
from collections.abc import Sequence

from lrd.optim.params import Piece
from lrd.rng import fold_key

OWN = 4  # length, first, last and layout are columns of all kernels; a kernel's own begin here
RESTORE_COLUMNS = OWN + 5


def update_table(pieces: Sequence[Piece]) -> array:
    """Return the rows (length, first, threshold - 1, layout, scalars' row, addresses) as int64."""
    columns = [
        [piece.length for piece in pieces],
        [piece.first for piece in pieces],
        [piece.threshold - 1 for piece in pieces],
        [piece.layout for piece in pieces],
        [piece.row for piece in pieces],
        *piece_addresses(pieces),
    ]
    table = array("q", bytes(8 * len(pieces) * len(columns)))
    for number, column in enumerate(columns):
        table[number :: len(columns)] = array("q", column)
    return table


def piece_addresses(pieces: Sequence[Piece]) -> list[list[int]]:
    """Return the addresses of the pieces' first weights, of their gradients and of each moment;
    all are float32."""
    columns = zip(*[piece.tensors for piece in pieces], strict=True)
    addresses = [[x.data_ptr() for x in column] for column in columns]
    if any([piece.begin for piece in pieces]):
        begins = [4 * piece.begin for piece in pieces]
        addresses = [[a + b for a, b in zip(x, begins, strict=True)] for x in addresses]
    return addresses


def restore_table(pieces: Sequence[Piece]) -> array:
    """Return the rows (length, first, threshold - 1, layout, unit, origin, bytes, new, old) as
    int64."""
    table = array("q")
    for (new, old), begin, length, first, threshold, unit, origin, _, layout in pieces:
        size = new.element_size()
        table.extend((length, first, threshold - 1, layout, unit, origin, size))
        table.extend((new.data_ptr() + begin * size, old.data_ptr() + begin * size))
    return table


def key_table(pieces: Sequence[Piece], seed: int, t: int) -> tuple[array, int]:
    """Return the two words of the key of each high word of the pieces' global indices, as uint32,
    and the first of these high words."""
    if not pieces:
        return array("I"), 0
    high, end = pieces[0].origin >> 32, pieces[-1]  # pieces come in the order of their indices
    last = (end.first + end.length) >> 32
    keys = [fold_key(seed, t, word) for word in range(high, last + 1)]
    return array("I", [half for key in keys for half in (key & 0xFFFFFFFF, key >> 32)]), high
