// Parameters of all forms of attention, as the file has them, and the scores.

struct HeadView {
    offset: u32,
    batch: u32,
    head: u32,
    row: u32,
}

struct BiasView {
    offset: u32,
    batch: u32,
    head: u32,
    row: u32,
    column: u32,
}

struct Attention {
    batch: u32,
    heads: u32,
    kv_group: u32,
    n_q: u32,
    n_k: u32,
    head_dim: u32,
    v_dim: u32,
    wide_exp: u32,
    acc_shift: u32,
    score_multiplier: i32,
    ratio_m: u32,
    ratio_shift: u32,
    zero_point: i32,
    q: HeadView,
    k: HeadView,
    v: HeadView,
    out: HeadView,
    bias0: BiasView,
    bias1: BiasView,
}

// One query row of one head of one batch.
struct Unit {
    batch: u32,
    head: u32,
    row: u32,
}

fn unit_of(a: Attention, index: u32) -> Unit {
    let outer = index / a.n_q;
    return Unit(outer / a.heads, outer % a.heads, index % a.n_q);
}

// Rows of the state that the query at a position sees: first and end.
fn seen_keys(a: Attention, position: u32, window: u32) -> vec2<u32> {
    let end = position + 1u;
    if end > a.n_k {
        return vec2(0u, a.n_k);
    }
    return vec2(end - min(end, window), end);
}

fn row_start(view: HeadView, batch: u32, head: u32, row: u32) -> u32 {
    return view.offset + batch * view.batch + head * view.head + row * view.row;
}

fn bias_index(view: BiasView, unit: Unit, key: u32) -> u32 {
    return view.offset + unit.batch * view.batch + unit.head * view.head + unit.row * view.row + key * view.column;
}

fn exponential(a: Attention, distance: u32) -> u32 {
    if a.wide_exp != 0u {
        return exp_u16(distance);
    }
    return exp_u8(distance);
}
