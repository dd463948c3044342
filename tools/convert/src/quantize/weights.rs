//! Weights: scale per output channel, rounding, packing into panels.

use super::tables::Table;
use crate::graph::Data;
use shiftformer::ops::embedding::TableFormat;
use shiftformer::weights::{GROUP, PANEL, PackedWeights, WeightFormat};
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A quantized `[n, k]` matrix.
#[derive(Clone, Debug)]
pub struct QWeights {
    /// `[n, k]`, row major.
    pub values: Vec<i8>,
    /// Real units of one step, per output channel.
    pub scales: Vec<f64>,
    /// Output channels.
    pub n: usize,
    /// Input width.
    pub k: usize,
    /// How they are packed.
    pub format: WeightFormat,
}

/// A quantized matrix with its packed layout.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The matrix.
    pub weights: QWeights,
    /// The layout of [`PackedWeights`].
    pub packed: Vec<u8>,
}

impl Layer {
    /// Packs `weights`.
    pub fn new(weights: QWeights) -> Self {
        Self { packed: pack(&weights), weights }
    }
}

/// A constant as integers.
#[derive(Clone, Debug)]
pub struct Quantized {
    /// Little endian.
    pub bytes: Vec<u8>,
    /// Real units of one step.
    pub scale: f64,
}

/// Constants that were quantized before: a search lowers the same graph many times.
#[derive(Debug, Default)]
pub struct Prepared {
    layers: Known<LayerForm, Layer>,
    constants: Known<ConstantForm, Quantized>,
    tables: Known<TableForm, Table>,
}

/// The order and format in which a matrix is packed: output channels, columns, channels last, format.
pub type LayerForm = (usize, usize, bool, WeightFormat);
/// How a constant is quantized: to 8 bits or 16, and the bits of the limits that it is clamped to.
pub type ConstantForm = (bool, [u64; 2]);
/// How a table is compressed: format and parts of a row.
pub type TableForm = (TableFormat, usize);

/// Results by where their source lies in memory and by a form. The source is kept, so that nothing else can lie there.
type Known<F, T> = Mutex<HashMap<(usize, F), (Arc<Data>, Arc<T>)>>;

impl Prepared {
    /// The same with a life of its own: for a graph that shares constants with this one's.
    pub fn fork(&self) -> Self {
        Self {
            layers: Mutex::new(lock(&self.layers).clone()),
            constants: Mutex::new(lock(&self.constants).clone()),
            tables: Mutex::new(lock(&self.tables).clone()),
        }
    }

    /// The layer of `source` in a form, by `make` the first time.
    pub fn layer(&self, source: &Arc<Data>, form: LayerForm, make: impl FnOnce() -> Layer) -> Arc<Layer> {
        known(&self.layers, source, form, make)
    }

    /// The constant `source` in a form, by `make` the first time.
    pub fn constant(&self, source: &Arc<Data>, form: ConstantForm, make: impl FnOnce() -> Quantized) -> Arc<Quantized> {
        known(&self.constants, source, form, make)
    }

    /// The table `source` in a form, by `make` the first time.
    pub fn table(&self, source: &Arc<Data>, form: TableForm, make: impl FnOnce() -> Table) -> Arc<Table> {
        known(&self.tables, source, form, make)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn known<F: Eq + Hash, T>(known: &Known<F, T>, source: &Arc<Data>, form: F, make: impl FnOnce() -> T) -> Arc<T> {
    let key = (Arc::as_ptr(source).addr(), form);
    if let Some((_, found)) = lock(known).get(&key) {
        return Arc::clone(found);
    }
    let made = Arc::new(make());
    lock(known).insert(key, (Arc::clone(source), Arc::clone(&made)));
    made
}

/// The whole numbers that weights of a format are rounded to.
#[derive(Clone, Copy, Debug)]
pub struct Grid {
    low: f64,
    high: f64,
    bits: u32,
}

impl Grid {
    /// That of a format.
    pub fn of(format: WeightFormat) -> Self {
        let (low, high) = format.range();
        Self { low: f64::from(low), high: f64::from(high), bits: format.bits() }
    }

    /// The number nearest to a weight in steps.
    pub fn nearest(self, steps: f64) -> f64 {
        steps.round().clamp(self.low, self.high)
    }

    /// The scale at which no weight is cut off, above 0.
    pub fn full_scale(self, weights: impl Iterator<Item = f64>) -> f64 {
        weights.fold(f64::MIN_POSITIVE, |scale, w| scale.max(w / if w < 0.0 { self.low } else { self.high }))
    }

    /// How many cuts of [`full_scale`](Self::full_scale) are tried, where 4 bits take `of_four` to come down to half of it:
    /// the fewer steps there are, the more of a row's tail is best cut off.
    pub fn cuts(self, of_four: usize) -> usize {
        match self.bits {
            0..=2 => of_four * 8 / 5,
            3 => of_four * 5 / 4,
            _ => of_four,
        }
    }
}

/// The weights in steps of their scales, where all of them are numbers that `format` holds: `[n, k]` by `[n]`.
pub fn on_grid(weights: &[f32], scales: &[f64], format: WeightFormat) -> Option<Vec<i8>> {
    /// Part of a step that single precision may lose between the model's grid and its weights.
    const NEAR: f64 = 1e-3;
    let (low, high) = format.limits();
    let k = weights.len() / scales.len().max(1);
    let steps = weights.chunks(k.max(1)).zip(scales).flat_map(|(row, s)| row.iter().map(move |&w| f64::from(w) / s));
    let value = |steps: f64| {
        let whole = steps.round();
        let fits = (steps - whole).abs() <= NEAR && (f64::from(low)..=f64::from(high)).contains(&whole);
        fits.then_some(whole as i8)
    };
    steps.map(value).collect()
}

/// Rounds each row of `weights` (`[n, k]`) to the scale with the smallest square error.
///
/// `floor` gives, per channel, the smallest admitted scale (so that the bias fits); 0 where there is none.
pub fn quantize(weights: &[f32], n: usize, k: usize, format: WeightFormat, floor: &[f64]) -> QWeights {
    let mut values = Vec::with_capacity(n * k);
    let mut scales = Vec::with_capacity(n);
    let grid = Grid::of(format);
    for (channel, row) in weights.chunks_exact(k.max(1)).enumerate() {
        let error = |scale: &f64| -> f64 {
            row.iter()
                .map(|&w| {
                    let w = f64::from(w);
                    let e = w - grid.nearest(w / scale) * scale;
                    e * e
                })
                .sum()
        };
        let full = grid.full_scale(row.iter().map(|&w| f64::from(w)));
        // Clipping a few large weights pays at few bits; at 8 bits the full range is within 0.1 dB of the best.
        let scale = if format.bits() < 8 && full > f64::MIN_POSITIVE {
            let cuts = (0..grid.cuts(40)).map(|i| full * (1.0 - i as f64 / 80.0));
            super::range::argmin(cuts, error).unwrap_or(full)
        } else {
            full
        };
        let scale = scale.max(floor.get(channel).copied().unwrap_or(0.0)).max(1e-30);
        values.extend(row.iter().map(|&w| grid.nearest(f64::from(w) / scale) as i8));
        scales.push(scale);
    }
    QWeights { values, scales, n, k, format }
}

/// The packed layout of [`PackedWeights`].
pub fn pack(weights: &QWeights) -> Vec<u8> {
    let (n, k, format) = (weights.n, weights.k, weights.format);
    let mut packed = vec![0u8; PackedWeights::bytes_for(n, k, format)];
    let groups = k.div_ceil(GROUP).max(1);
    for (channel, row) in weights.values.chunks_exact(k.max(1)).enumerate() {
        for (i, &w) in row.iter().enumerate() {
            let group = (channel / PANEL * groups + i / GROUP) * PANEL + channel % PANEL;
            let group = &mut packed[group * format.group_bytes()..][..format.group_bytes()];
            format.put(group, i % GROUP, w);
        }
    }
    packed
}

/// Per-channel values padded to whole panels with 0.
pub fn pad_channels(values: &[i32]) -> Vec<i32> {
    let mut padded = values.to_vec();
    padded.resize(values.len().next_multiple_of(PANEL), 0);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_rows_have_a_finite_scale() {
        let q = quantize(&[0.0, 0.0, 1.0, -2.0], 2, 2, WeightFormat::I8, &[0.0, 0.0]);
        assert!(q.scales.iter().all(|s| s.is_finite() && *s > 0.0));
        assert_eq!(q.values, [0, 0, 64, -127]);
    }

    #[test]
    fn panels_follow_the_documented_address() {
        let (n, k) = (5, 19);
        let values: Vec<i8> = (0..n * k).map(|i| (i % 13) as i8 - 6).collect();
        let weights = QWeights { values: values.clone(), scales: vec![1.0; n], n, k, format: WeightFormat::I8 };
        let packed = pack(&weights);
        let groups = k.div_ceil(16);
        for ch in 0..n {
            for i in 0..k {
                let at = ((ch / 4) * groups + i / 16) * 64 + (ch % 4) * 16 + i % 16;
                assert_eq!(packed[at] as i8, values[ch * k + i]);
            }
        }
        let nibbles = pack(&QWeights { format: WeightFormat::I4, ..weights });
        for ch in 0..n {
            for i in 0..k {
                let at = ((ch / 4) * groups + i / 16) * 32 + (ch % 4) * 8 + i % 8;
                let byte = nibbles[at];
                let w = if i % 16 < 8 { ((byte << 4) as i8) >> 4 } else { (byte as i8) >> 4 };
                assert_eq!(w, values[ch * k + i]);
            }
        }
    }
}
