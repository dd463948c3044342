//! What depends on the position of a row.

use crate::graph::{Data, Rope};

/// Rotated rows, see [`Op::Rope`](crate::graph::Op::Rope).
pub(super) fn rotate(rope: &Rope, x: &[f32], [cosines, sines]: [&[f32]; 2]) -> Option<Data> {
    let (width, pairs) = (rope.heads * rope.head_dim, rope.rotary / 2);
    let mut out = x.to_vec();
    for (row, out) in out.chunks_mut(width.max(1)).enumerate() {
        let angles = row * pairs..(row + 1) * pairs;
        let (cosines, sines) = (cosines.get(angles.clone())?, sines.get(angles)?);
        for head in out.chunks_mut(rope.head_dim.max(1)) {
            for (pair, (cos, sin)) in cosines.iter().zip(sines).enumerate() {
                let [a, b] = rope.pair(pair);
                let (x, y) = (*head.get(a)?, *head.get(b)?);
                head[a] = x * cos - y * sin;
                head[b] = y * cos + x * sin;
            }
        }
    }
    Some(Data::Float(out))
}

/// The first `count` values.
pub(super) fn first_values(data: &Data, count: usize) -> Option<Data> {
    Some(match data {
        Data::Float(v) => Data::Float(v.get(..count)?.to_vec()),
        Data::Int(v) => Data::Int(v.get(..count)?.to_vec()),
        Data::Bool(v) => Data::Bool(v.get(..count)?.to_vec()),
    })
}
