//! Transposition of bytes, 16 x 16 at a time: four rounds of interleaving the first eight rows with the last eight.
//!
//! The sixteen registers hold the rows; a round needs one more, which the compiler keeps in memory. 64 interleavings, 16 loads
//! and 16 stores for 256 bytes.

use core::arch::x86_64::*;

/// Rows and columns of a tile.
const TILE: usize = 16;

/// [`crate::kernels::Kernels::transpose`] of at least 16 rows and columns: the last tiles overlap those before. `false`:
/// nothing was written.
#[target_feature(enable = "avx2")]
pub fn tiles(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize) -> bool {
    let reach = |count: usize, stride: usize, width: usize| {
        count.checked_sub(1).and_then(|last| last.checked_mul(stride)?.checked_add(width))
    };
    let fits = rows >= TILE
        && cols >= TILE
        && rows <= out_stride
        && reach(rows, x_stride, cols).is_some_and(|reach| reach <= x.len())
        && cols.checked_mul(out_stride).is_some_and(|len| len <= out.len());
    if !fits {
        return false;
    }
    for col in (0..cols).step_by(TILE) {
        let col = col.min(cols - TILE);
        for row in (0..rows).step_by(TILE) {
            let row = row.min(rows - TILE);
            // SAFETY: the tile lies in the rows and columns that both slices hold.
            unsafe {
                let (x, out) = (x.as_ptr().add(row * x_stride + col), out.as_mut_ptr().add(col * out_stride + row));
                tile(x, x_stride, out, out_stride);
            }
        }
    }
    if rows < out_stride {
        for out in out.chunks_exact_mut(out_stride).take(cols) {
            out.get_mut(rows..).unwrap_or(&mut []).fill(0);
        }
    }
    true
}

/// # Safety
/// Sixteen rows of sixteen bytes can be read and written.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn tile(x: *const i8, x_stride: usize, out: *mut i8, out_stride: usize) {
    let mut tile = [_mm_setzero_si128(); TILE];
    // SAFETY: the caller's contract.
    unsafe {
        for (row, to) in tile.iter_mut().enumerate() {
            *to = _mm_loadu_si128(x.add(row * x_stride).cast());
        }
        for _ in 0..TILE.ilog2() {
            let mut next = tile;
            for row in 0..TILE / 2 {
                next[2 * row] = _mm_unpacklo_epi8(tile[row], tile[row + TILE / 2]);
                next[2 * row + 1] = _mm_unpackhi_epi8(tile[row], tile[row + TILE / 2]);
            }
            tile = next;
        }
        for (column, &from) in tile.iter().enumerate() {
            _mm_storeu_si128(out.add(column * out_stride).cast(), from);
        }
    }
}
