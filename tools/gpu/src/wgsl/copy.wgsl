// Parameters of a strided copy, as the file has them.

struct Copy {
    dims: array<u32, 6>,
    source: Extent,
    target_view: Extent,
    flip: u32,
    partial: u32,
}
