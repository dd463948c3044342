// Attention of one query row per workgroup, without the score matrix.
//
// Keys are taken in chunks of CHUNK: a first pass finds the row's maximum, a second makes exponentials and sums the
// values. A row that fits one chunk keeps its scores between the passes. In the value phase the 64 invocations are
// `lanes` words of columns times `64 / lanes` shares of the keys.

const CHUNK: u32 = 1024u;

struct Params {
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias0: Tensor,
    bias1: Tensor,
    out: Tensor,
    rows: u32,
    // Invocations side by side over the columns, a power of two up to 64.
    lanes: u32,
    a: Attention,
}
@group(0) @binding(2) var<storage, read> p: Params;

var<workgroup> weights_of_keys: array<i32, 1024>;
var<workgroup> partial_sums: array<vec4<i32>, 64>;

fn score(sample: u32, unit: Unit, key: u32) -> i32 {
    let q = row_start(p.a.q, unit.batch, unit.head, unit.row);
    let k = row_start(p.a.k, unit.batch, unit.head / p.a.kv_group, key);
    let whole = p.a.head_dim >> 2u;
    var acc = 0i;
    for (var i = 0u; i < whole; i++) {
        acc += dot4I8Packed(bytes4(p.q, sample, q + 4u * i), bytes4(p.k, sample, k + 4u * i));
    }
    for (var i = whole * 4u; i < p.a.head_dim; i++) {
        acc += element_i8(p.q, sample, q + i) * element_i8(p.k, sample, k + i);
    }
    var s = mulhi_round(acc << p.a.acc_shift, p.a.score_multiplier);
    if present(p.bias0) {
        s += element(p.bias0, sample, bias_index(p.a.bias0, unit, key));
    }
    if present(p.bias1) {
        s += element(p.bias1, sample, bias_index(p.a.bias1, unit, key));
    }
    return s;
}

// Scores of the chunk from `first` into `weights_of_keys`; the greatest of this invocation's.
fn score_chunk(sample: u32, unit: Unit, first: u32, lane: u32) -> i32 {
    var largest = bitcast<i32>(0x80000000u);
    for (var i = lane; i < min(CHUNK, p.a.n_k - first); i += 64u) {
        let s = score(sample, unit, first + i);
        weights_of_keys[i] = s;
        largest = max(largest, s);
    }
    return largest;
}

// Turns the chunk's scores into exponentials; the sum of this invocation's.
fn exp_chunk(first: u32, largest: i32, lane: u32) -> u32 {
    var sum = 0u;
    for (var i = lane; i < min(CHUNK, p.a.n_k - first); i += 64u) {
        let e = exponential(p.a, bitcast<u32>(largest - weights_of_keys[i]));
        weights_of_keys[i] = bitcast<i32>(e);
        sum += e;
    }
    return sum;
}

fn weighted_values(sample: u32, unit: Unit, first: u32, column: u32, share: u32, shares: u32) -> vec4<i32> {
    var acc = vec4<i32>(0i);
    let start = row_start(p.a.v, unit.batch, unit.head / p.a.kv_group, first) + column;
    for (var i = share; i < min(CHUNK, p.a.n_k - first); i += shares) {
        let v = bytes4(p.v, sample, start + i * p.a.v.row);
        let e = weights_of_keys[i];
        acc += e * vec4(signed_byte(v, 0u), signed_byte(v, 1u), signed_byte(v, 2u), signed_byte(v, 3u));
    }
    return acc;
}

fn write_columns(sample: u32, unit: Unit, column: u32, scale: vec2<u32>, acc: vec4<i32>) {
    var packed = 0u;
    for (var i = 0u; i < min(4u, p.a.v_dim - column); i++) {
        packed |= placed(I8, i, p.a.zero_point + apply_row_scale(scale, acc[i]));
    }
    // The output rows start at whole words: the host sees to it.
    let to = row_start(p.a.out, unit.batch, unit.head, unit.row) + column;
    set_word(p.out, sample, to >> 2u, packed);
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let index = group.y * groups.x + group.x;
    if index >= p.rows {
        return;
    }
    let sample = group.z;
    let unit = unit_of(p.a, index);
    var largest = bitcast<i32>(0x80000000u);
    for (var first = 0u; first < p.a.n_k; first += CHUNK) {
        largest = max(largest, score_chunk(sample, unit, first, lane));
    }
    largest = reduce_max(lane, largest);
    let shares = 64u / p.lanes;
    let share = lane / p.lanes;
    for (var block = 0u; block < p.a.v_dim; block += 4u * p.lanes) {
        let column = block + 4u * (lane % p.lanes);
        var sum = 0u;
        var acc = vec4<i32>(0i);
        for (var first = 0u; first < p.a.n_k; first += CHUNK) {
            // One chunk still holds its scores from the first pass, and only the first block may take them.
            if p.a.n_k > CHUNK || block > 0u {
                workgroupBarrier();
                score_chunk(sample, unit, first, lane);
            }
            sum += exp_chunk(first, largest, lane);
            workgroupBarrier();
            if column < p.a.v_dim {
                acc += weighted_values(sample, unit, first, column, share, shares);
            }
        }
        sum = reduce_sum(lane, sum);
        partial_sums[lane] = acc;
        workgroupBarrier();
        if share == 0u && column < p.a.v_dim {
            for (var other = 1u; other < shares; other++) {
                acc += partial_sums[other * p.lanes + lane];
            }
            write_columns(sample, unit, column, row_scale(sum, p.a.ratio_m, p.a.ratio_shift), acc);
        }
        workgroupBarrier();
    }
}
