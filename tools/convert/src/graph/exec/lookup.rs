//! Layers of look-ups in `f32`.

use crate::graph::{Data, Lookup};

/// See [`Op::Lookup`](crate::graph::Op::Lookup).
pub(super) fn look_up(lookup: &Lookup, x: &[f32], tables: &[f32], bias: &[f32]) -> Option<Data> {
    let n = bias.len();
    let table = n << lookup.chunk;
    let k = tables.len() / table.max(1) * lookup.chunk;
    let mut out = Vec::with_capacity(x.len() / k.max(1) * n);
    for row in x.chunks_exact(k.max(1)) {
        let mut sums: Vec<f64> = bias.iter().map(|&b| f64::from(b)).collect();
        for (z, table) in row.chunks_exact(lookup.chunk.max(1)).zip(tables.chunks_exact(table.max(1))) {
            let code: usize = z.iter().enumerate().map(|(i, &z)| usize::from(z >= 0.0) << i).sum();
            let weight: f64 = z.iter().map(|&z| lookup.factor(f64::from(z))).product();
            let entries = table.get(code * n..)?;
            sums.iter_mut().zip(entries).for_each(|(sum, &entry)| *sum += weight * f64::from(entry));
        }
        out.extend(sums.into_iter().map(|sum| sum as f32));
    }
    Some(Data::Float(out))
}
