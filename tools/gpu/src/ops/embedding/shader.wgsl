// Rows of a compressed table by index. An index beyond the table is reported by operator, once per sample.

struct Params {
    elements: Elements,
    ids: Tensor,
    fault: Tensor,
    op: u32,
    rows: u32,
    width: u32,
    n: u32,
    format: u32,
    parts: u32,
    part: u32,
    divisor: u32,
    limit: u32,
    acc_shift: u32,
    multiplier: i32,
    codes: Blob,
    books: Blob,
    scales: Blob,
}
@group(0) @binding(2) var<storage, read> p: Params;

const PRODUCT: u32 = 1u;
const I4_ROWS: u32 = 4u;
const QUOTIENT: u32 = 1u;
const REMAINDER: u32 = 2u;
const BOOK: u32 = 256u;

fn blob_u8(blob: Blob, index: u32) -> u32 {
    return bitcast<u32>(blob_i8(blob, index)) & 255u;
}

fn decoded(row: u32, column: u32) -> i32 {
    switch p.format {
        case PRODUCT: {
            let size = p.width / p.parts;
            let part = column / size;
            let code = blob_u8(p.codes, row * p.parts + part);
            return blob_i8(p.books, (part * BOOK + code) * size + column % size);
        }
        case I4_ROWS: {
            let code = blob_i8(p.codes, row * ((p.width + 1u) / 2u) + column / 2u);
            return extractBits(code, (column & 1u) * 4u, 4u);
        }
        default: {
            return blob_i8(p.codes, row * p.width + column);
        }
    }
}

fn value(sample: u32, index: u32) -> i32 {
    let signed = element(p.ids, sample, index / p.width);
    // Negative ids count from the end of a table that they are rows of; all others wrap around to large numbers.
    let id = bitcast<u32>(signed) + select(0u, p.rows, signed < 0 && p.part == 0u);
    if id >= p.limit {
        // Operators run one after the other: the first to fault stays.
        if word(p.fault, sample, 0u) == 0u {
            set_word(p.fault, sample, 0u, p.op + 1u);
        }
        return 0;
    }
    var row = id;
    if p.part == QUOTIENT {
        row = id / p.divisor;
    } else if p.part == REMAINDER {
        row = id % p.divisor;
    }
    var scale = 1;
    if p.scales.bytes > 0u {
        scale = blob_i16(p.scales, row) & 0xffff;
    }
    return mulhi_round((decoded(row, index % p.width) * scale) << p.acc_shift, p.multiplier);
}
