//! End-to-end, parity and golden tests.
