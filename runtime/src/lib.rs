//! Integer-only transformer inference.
#![no_std]
#![deny(unsafe_code)]
