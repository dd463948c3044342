//! Converter library.
