// Rotary position embedding: pairs of a head's elements turned by the angles of the row's position.

struct Params {
    elements: Elements,
    x: Tensor,
    // Position of the run, and its rows.
    step: Tensor,
    rows: u32,
    heads: u32,
    head_dim: u32,
    rotary: u32,
    interleaved: u32,
    capacity: u32,
    acc_shift: u32,
    multiplier: i32,
    // Cosine and sine of every position and pair.
    table: Blob,
}
@group(0) @binding(2) var<storage, read> p: Params;

fn value(sample: u32, index: u32) -> i32 {
    let place = index % p.head_dim;
    // 16-bit elements count the table half.
    let halved = select(0u, 1u, p.x.dtype == I16);
    let own = element(p.x, sample, index);
    var acc = own * (32768i >> halved);
    if place < p.rotary {
        let half = p.rotary / 2u;
        var pair = place % half;
        var second = place >= half;
        var other = select(index + half, index - half, second);
        if p.interleaved != 0u {
            pair = place / 2u;
            second = (place & 1u) == 1u;
            other = index - place + (place ^ 1u);
        }
        // Rows beyond those of the run may have no position: nobody looks at them.
        let row = min(word(p.step, sample, 0u) + index / (p.heads * p.head_dim), p.capacity - 1u);
        let at = row * p.rotary + 2u * pair;
        let cosine = blob_i16(p.table, at) >> halved;
        let sine = blob_i16(p.table, at + 1u) >> halved;
        let across = element(p.x, sample, other) * sine;
        acc = own * cosine + select(-across, across, second);
    }
    return mulhi_round(acc << p.acc_shift, p.multiplier);
}
