//! Classic BPF: decoder, validator, reference interpreter, compiler to WebAssembly.
