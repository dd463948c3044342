//! Bytes moved and looked up by gathering loads.
//!
//! # Instructions
//! Table: 5 for sixteen bytes. Transposition: 4 for eight.

use crate::kernels::portable;
use core::arch::asm;

/// [`crate::kernels::Kernels::lut_in_place`].
pub fn lut_in_place(data: &mut [i8], table: &[i8; 256]) {
    if data.is_empty() {
        return;
    }
    // SAFETY: the predicated loop reads and writes `data.len()` bytes; a byte cannot leave 256 entries.
    unsafe {
        asm!(
            "vdup.8 q1, {flip}",
            "dlstp.8 lr, {len}",
            "2:",
            "vldrb.8 q0, [{data}]",
            // XOR with 0x80 is + 128 as an index.
            "veor q0, q0, q1",
            "vldrb.u8 q2, [{table}, q0]",
            "vstrb.8 q2, [{data}], #16",
            "letp lr, 2b",
            flip = in(reg) 0x80, len = in(reg) data.len(), data = inout(reg) data.as_mut_ptr() => _,
            table = in(reg) table.as_ptr(),
            out("lr") _, out("d0") _, out("d1") _, out("d2") _, out("d3") _, out("d4") _, out("d5") _, options(nostack)
        );
    }
}

/// [`crate::kernels::Kernels::lut_wide`].
pub fn lut_wide(x: &[i8], table: &[i16; 256], out: &mut [i16]) {
    let len = x.len().min(out.len());
    if len == 0 {
        return;
    }
    // SAFETY: the predicated loop reads and writes `len` elements; an offset from the middle of the table is a byte.
    unsafe {
        asm!(
            "vdup.16 q2, {flip}",
            "dlstp.16 lr, {len}",
            "2:",
            "vldrb.u16 q0, [r1], #8",
            // XOR with 0x80 is + 128 as an index.
            "veor q0, q0, q2",
            "vldrh.u16 q1, [{table}, q0, uxtw #1]",
            "vstrh.16 q1, [r4], #16",
            "letp lr, 2b",
            flip = in(reg) 0x80, len = in(reg) len, table = in(reg) table.as_ptr(), out("d4") _, out("d5") _,
            inout("r1") x.as_ptr() => _, inout("r4") out.as_mut_ptr() => _,
            out("lr") _, out("d0") _, out("d1") _, out("d2") _, out("d3") _, options(nostack)
        );
    }
}

/// Elements gathered by one load; offsets of 16 bits reach the last of them.
const LANES: usize = 8;

/// [`crate::kernels::Kernels::transpose`].
pub fn transpose(x: &[i8], x_stride: usize, rows: usize, cols: usize, out: &mut [i8], out_stride: usize) {
    let whole = rows > 0
        && cols > 0
        && rows <= out_stride
        && cols <= x_stride
        && x_stride <= usize::from(u16::MAX) / LANES
        && (rows - 1).checked_mul(x_stride).is_some_and(|last| x.len() >= last + cols);
    if !whole {
        return portable::transpose(x, x_stride, rows, cols, out, out_stride);
    }
    for (column, out) in out.chunks_mut(out_stride).take(cols).enumerate() {
        let Some((body, pad)) = out.split_at_mut_checked(rows) else {
            return portable::transpose(x.get(column..).unwrap_or(&[]), x_stride, rows, 1, out, out_stride);
        };
        // SAFETY: the predicated loop gathers `rows` elements of column `column < cols`, all in `x`, into `body`.
        unsafe {
            asm!(
                "movs r0, #0",
                "vidup.u16 q0, r0, #1",
                "vmul.i16 q0, q0, {stride}",
                "dlstp.16 lr, {rows}",
                "2:",
                "vldrb.u16 q1, [r4, q0]",
                "vstrb.16 q1, [r1], #8",
                "add r4, r4, {stride}, lsl #3",
                "letp lr, 2b",
                // `vidup` wants an even register.
                out("r0") _, stride = in(reg) x_stride, rows = in(reg) rows,

                inout("r4") x.as_ptr().wrapping_add(column) => _, inout("r1") body.as_mut_ptr() => _, out("lr") _, out("d0") _, out("d1") _, out("d2") _, out("d3") _, options(nostack)
            );
        }
        pad.iter_mut().for_each(|out| *out = 0);
    }
}
