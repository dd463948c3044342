//! Embedding tables with fewer bits: a scale per row, or product quantization.
//!
//! # Reference
//! Product quantization: Jégou, Douze, Schmid, PAMI 33(1), 2011. Codebooks by Lloyd's algorithm over the rows of the table.

use super::range::argmin;
use crate::parallel;
use shiftformer::ops::embedding::{BOOK, TableFormat};

/// How the tables that ids are looked up in are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Embeddings {
    /// As the activations that read them: one scale for a table.
    #[default]
    Plain,
    /// 8 bits, a scale per row.
    Int8,
    /// 4 bits, a scale per row.
    Int4,
    /// A byte for each part of a row: an entry of the codebook of the part.
    Product {
        /// Parts of a row.
        parts: usize,
    },
    /// As the model was trained: tables of quotients and of remainders of ids.
    QuotientRemainder,
}

impl std::str::FromStr for Embeddings {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.strip_prefix("pq:").and_then(|parts| parts.parse().ok()).filter(|&parts| parts > 0);
        match (text, parts) {
            ("int8", _) => Ok(Self::Int8),
            ("int4", _) => Ok(Self::Int4),
            ("qr", _) => Ok(Self::QuotientRemainder),
            (_, Some(parts)) => Ok(Self::Product { parts }),
            _ => Err(format!("`{text}` is not int8, int4, pq:M (M bytes a row, e.g. pq:96) or qr")),
        }
    }
}

impl std::fmt::Display for Embeddings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain => f.write_str("plain"),
            Self::Int8 => f.write_str("int8"),
            Self::Int4 => f.write_str("int4"),
            Self::Product { parts } => write!(f, "pq:{parts}"),
            Self::QuotientRemainder => f.write_str("qr"),
        }
    }
}

/// A compressed table, as the operator `embedding` reads it.
#[derive(Clone, Debug)]
pub struct Table {
    /// How rows are stored.
    pub format: TableFormat,
    /// Parts of a row; 0 unless the format is `Product`.
    pub parts: usize,
    /// The rows.
    pub codes: Vec<u8>,
    /// `[parts, 256, width / parts]`.
    pub books: Vec<i8>,
    /// Per row; empty where every scale is 1.
    pub scales: Vec<u16>,
    /// Real value of the element 1 in a row of the scale 1.
    pub unit: f64,
    /// Largest magnitude of an element, in real units.
    pub abs_max: f64,
    /// Signal to noise of the elements, rows weighted alike, in dB.
    pub sqnr_db: f64,
}

impl Table {
    /// Bytes in the file.
    pub fn bytes(&self) -> usize {
        self.codes.len() + self.books.len() + 2 * self.scales.len()
    }
}

/// Compresses `values` (`[rows, width]`). `counts` says how often the samples look rows up, where that is known: entries of
/// codebooks are means weighted by it.
pub fn compress(values: &[f32], width: usize, format: TableFormat, parts: usize, counts: Option<&[u32]>) -> Table {
    let mut table = match format {
        TableFormat::I8 => scaled(values, width, format, 127.0),
        TableFormat::I4 => scaled(values, width, format, 7.0),
        TableFormat::Product => product(values, width, parts, counts),
    };
    let (mut signal, mut noise) = (0.0, 0.0);
    for (row, values) in values.chunks_exact(width).enumerate() {
        for (column, &value) in values.iter().enumerate() {
            let (value, decoded) = (f64::from(value), table.element(width, row, column));
            signal += value * value;
            noise += (value - decoded) * (value - decoded);
            table.abs_max = table.abs_max.max(decoded.abs());
        }
    }
    table.sqnr_db = 10.0 * (signal / f64::max(noise, f64::MIN_POSITIVE)).log10();
    table
}

impl Table {
    /// Element `column` of `row`, in real units.
    fn element(&self, width: usize, row: usize, column: usize) -> f64 {
        let row_bytes = self.format.row_bytes(width as u32, self.parts as u32) as usize;
        let codes = &self.codes[row * row_bytes..][..row_bytes];
        let step = match self.format {
            TableFormat::I8 => codes[column] as i8,
            TableFormat::I4 => ((codes[column / 2] << (4 - column % 2 * 4)) as i8) >> 4,
            TableFormat::Product => {
                let size = width / self.parts;
                let part = column / size;
                self.books[(part * BOOK + usize::from(codes[part])) * size + column % size]
            }
        };
        f64::from(step) * self.scales.get(row).map_or(1.0, |&scale| f64::from(scale)) * self.unit
    }
}

/// How far the range of a 4-bit row is cut at most, and in how many steps cuts are tried.
const CUTS: usize = 24;
const LARGEST_CUT: f64 = 0.5;

/// Rows with a scale of 16 bits each, relative to the largest.
fn scaled(values: &[f32], width: usize, format: TableFormat, top: f64) -> Table {
    let rows: Vec<&[f32]> = values.chunks_exact(width).collect();
    let best = |row: &[f32]| -> f64 {
        let full = row.iter().fold(0.0f64, |m, &v| m.max(f64::from(v.abs()))) / top;
        let error = |scale: &f64| -> f64 {
            let lost = |&v: &f32| f64::from(v) - (f64::from(v) / scale).round().clamp(-top, top) * scale;
            row.iter().map(|v| lost(v) * lost(v)).sum()
        };
        // As for weights: clipping pays at 4 bits only.
        if format == TableFormat::I8 || full == 0.0 {
            return full;
        }
        let cuts = (0..CUTS).map(|i| full * (1.0 - LARGEST_CUT * i as f64 / CUTS as f64));
        argmin(cuts, error).unwrap_or(full)
    };
    let wanted: Vec<f64> = parallel::map(rows.clone(), best);
    let most = wanted.iter().fold(0.0f64, |m, &scale| m.max(scale)).max(1e-30);
    let unit = most / f64::from(u16::MAX);
    let scales: Vec<u16> = wanted.iter().map(|&scale| (scale / unit).round().clamp(1.0, 65535.0) as u16).collect();
    let pack = |(row, &scale): (&[f32], &u16)| -> Vec<u8> {
        let step = |v: f32| (f64::from(v) / (f64::from(scale) * unit)).round().clamp(-top, top) as i8 as u8;
        match format {
            TableFormat::I4 => {
                row.chunks(2).map(|pair| step(pair[0]) & 15 | pair.get(1).map_or(0, |&high| step(high) << 4)).collect()
            }
            TableFormat::I8 | TableFormat::Product => row.iter().map(|&v| step(v)).collect(),
        }
    };
    let codes = rows.into_iter().zip(&scales).flat_map(pack).collect();
    Table { format, parts: 0, codes, books: Vec::new(), scales, unit, abs_max: 0.0, sqnr_db: 0.0 }
}

/// Rows that codebooks are made from at most, spread over the table; those that the samples look up take part in any case.
const TRAINING_ROWS: usize = 12_288;
/// Steps of Lloyd's algorithm.
const STEPS: usize = 12;
/// How much more a row counts for each time that the samples look it up, and at most.
const COUNT_WEIGHT: f32 = 1.0;
const MOST_WEIGHT: f32 = 64.0;

fn product(values: &[f32], width: usize, parts: usize, counts: Option<&[u32]>) -> Table {
    let rows = values.len() / width;
    let size = width / parts;
    let weight = |row: usize| {
        let count = counts.and_then(|counts| counts.get(row)).copied().unwrap_or(0);
        (1.0 + COUNT_WEIGHT * count as f32).min(MOST_WEIGHT)
    };
    let stride = rows.div_ceil(TRAINING_ROWS).max(1);
    let trained: Vec<usize> = (0..rows).filter(|&row| row % stride == 0 || weight(row) > 1.0).collect();
    let part_of = |row: usize, part: usize| &values[row * width + part * size..][..size];
    let one = |part: usize| -> (Vec<f32>, Vec<u8>) {
        let mut book = Book::spread(trained.iter().map(|&row| part_of(row, part)), size);
        for _ in 0..STEPS {
            book.improve(trained.iter().map(|&row| (part_of(row, part), weight(row))));
        }
        let codes = (0..rows).map(|row| book.nearest(part_of(row, part)) as u8).collect();
        (book.entries(), codes)
    };
    let made = parallel::map((0..parts).collect(), one);
    let abs_max = made.iter().flat_map(|(book, _)| book).fold(0.0f64, |m, &v| m.max(f64::from(v.abs())));
    let unit = (abs_max / 127.0).max(1e-30);
    let step = |&v: &f32| (f64::from(v) / unit).round().clamp(-127.0, 127.0) as i8;
    let books = made.iter().flat_map(|(book, _)| book).map(step).collect();
    let codes = (0..rows).flat_map(|row| made.iter().map(move |(_, codes)| codes[row])).collect();
    let format = TableFormat::Product;
    Table { format, parts, codes, books, scales: Vec::new(), unit, abs_max: 0.0, sqnr_db: 0.0 }
}

/// The codebook of one part.
struct Book {
    size: usize,
    /// `[size, 256]`, so that distances to all entries are computed side by side.
    columns: Vec<[f32; BOOK]>,
}

impl Book {
    /// Entries that are vectors spread evenly over `vectors`, which are in an order of their own.
    fn spread<'v>(vectors: impl ExactSizeIterator<Item = &'v [f32]> + Clone, size: usize) -> Self {
        let mut columns = vec![[0.0; BOOK]; size];
        let count = vectors.len();
        let all: Vec<&[f32]> = vectors.collect();
        for entry in 0..BOOK.min(count) {
            let vector = all[entry * count / BOOK.min(count)];
            columns.iter_mut().zip(vector).for_each(|(column, &v)| column[entry] = v);
        }
        Self { size, columns }
    }

    fn nearest(&self, vector: &[f32]) -> usize {
        let mut distances = [0.0f32; BOOK];
        for (column, &v) in self.columns.iter().zip(vector) {
            for (distance, &entry) in distances.iter_mut().zip(column) {
                *distance += (v - entry) * (v - entry);
            }
        }
        let first = (0, f32::INFINITY);
        let least = |best: (usize, f32), (at, &d): (usize, &f32)| if d < best.1 { (at, d) } else { best };
        distances.iter().enumerate().fold(first, least).0
    }

    /// Every entry becomes the weighted mean of the vectors that are nearest to it; one that has none stays.
    fn improve<'v>(&mut self, vectors: impl Iterator<Item = (&'v [f32], f32)>) {
        let (mut sums, mut weights) = (vec![0.0f64; BOOK * self.size], [0.0f64; BOOK]);
        for (vector, weight) in vectors {
            let entry = self.nearest(vector);
            let weight = f64::from(weight);
            weights[entry] += weight;
            let sums = &mut sums[entry * self.size..][..self.size];
            sums.iter_mut().zip(vector).for_each(|(sum, &v)| *sum += weight * f64::from(v));
        }
        for (entry, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            for (column, &sum) in self.columns.iter_mut().zip(&sums[entry * self.size..]) {
                column[entry] = (sum / weight) as f32;
            }
        }
    }

    /// `[256, size]`.
    fn entries(&self) -> Vec<f32> {
        (0..BOOK).flat_map(|entry| self.columns.iter().map(move |column| column[entry])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows around 40 points, of unlike lengths.
    fn values(rows: usize, width: usize) -> Vec<f32> {
        let wave = |row: usize, column: usize| ((row % 40 * 7 + column * column * 3) as f32).sin();
        let length = |row: usize| 0.1 + (row % 11) as f32 / 10.0;
        (0..rows * width).map(|i| length(i / width) * wave(i / width, i % width)).collect()
    }

    #[test]
    fn rows_keep_what_their_bits_allow() {
        let (rows, width) = (700, 24);
        let values = values(rows, width);
        let eight = compress(&values, width, TableFormat::I8, 0, None);
        assert!(eight.sqnr_db > 45.0 && eight.bytes() == rows * (width + 2), "{}", eight.sqnr_db);
        let four = compress(&values, width, TableFormat::I4, 0, None);
        assert!(four.sqnr_db > 20.0 && four.bytes() == rows * (width / 2 + 2), "{}", four.sqnr_db);
        let product = compress(&values, width, TableFormat::Product, 12, None);
        assert!(product.sqnr_db > 25.0 && product.bytes() == rows * 12 + 256 * width, "{}", product.sqnr_db);
        let again = compress(&values, width, TableFormat::Product, 12, None);
        assert_eq!((product.codes, product.books), (again.codes, again.books));
    }

    #[test]
    fn a_codebook_of_few_vectors_is_exact_to_its_step() {
        let values = values(40, 6);
        let table = compress(&values, 6, TableFormat::Product, 2, None);
        assert!(table.sqnr_db > 40.0, "{}", table.sqnr_db);
    }

    #[test]
    fn rows_that_samples_look_up_lose_less() {
        let (rows, width) = (3000, 8);
        let values: Vec<f32> = (0..rows * width).map(|i| ((i * i % 7919) as f32 * 0.37).sin()).collect();
        let counts: Vec<u32> = (0..rows).map(|row| if row % 10 == 3 { 50 } else { 0 }).collect();
        let lost = |counts: Option<&[u32]>| -> f64 {
            let table = compress(&values, width, TableFormat::Product, 2, counts);
            let of = |row: usize| (0..width).map(move |column| (row, column));
            let places = (3..rows).step_by(10).flat_map(of);
            places
                .map(|(row, column)| {
                    (f64::from(values[row * width + column]) - table.element(width, row, column)).powi(2)
                })
                .sum()
        };
        let (plain, weighted) = (lost(None), lost(Some(&counts)));
        assert!(weighted < 0.8 * plain, "{weighted} {plain}");
    }

    #[test]
    fn an_empty_table_is_finite() {
        for format in [TableFormat::I8, TableFormat::I4, TableFormat::Product] {
            let table = compress(&[0.0; 24], 4, format, 2, None);
            assert!(table.unit > 0.0 && table.abs_max == 0.0);
        }
    }

    #[test]
    fn options_are_read_as_they_are_written() {
        for text in ["int8", "int4", "qr", "pq:1", "pq:96"] {
            assert_eq!(text.parse::<Embeddings>().map(|e| e.to_string()), Ok(text.to_owned()));
        }
        for text in ["", "int2", "pq", "pq:", "pq:0", "pq:-3", "pq:x", "plain"] {
            assert!(text.parse::<Embeddings>().is_err());
        }
    }
}
