//! Source and sink in memory, for benches and tests.
