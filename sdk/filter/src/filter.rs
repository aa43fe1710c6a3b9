//! What a filter is.

use crate::{Burst, Error, Manifest};

/// A packet filter: one value for each worker, made with the configuration and used by one thread at a time.
///
/// A new configuration, like a new version, is a new generation: smpnet makes new instances, hands them the state of the old
/// ones where both want that, and lets every worker change over between two bursts.
pub trait Filter: Sized + 'static {
    /// Makes the filter. `config` is what the operator gave, unchanged, empty when that was nothing;
    /// [`Options`](crate::config::Options) reads `key = value` lines of it.
    ///
    /// # Errors
    /// Refuses the configuration: the operator is told the text, and what was running goes on.
    fn new(config: &[u8]) -> Result<Self, Error>;

    /// Judges the packets of a burst, at most 64. Those that are not mentioned pass.
    fn filter(&mut self, burst: &mut Burst<'_>);

    /// Time has passed: called before a burst when the manifest's `tick_ms` are over. `now_ns` is as in
    /// [`Burst::now_ns`].
    fn tick(&mut self, now_ns: u64) {
        let _ = now_ns;
    }

    /// Writes state for the next generation into `out`, from byte `offset` of it on, and returns how many bytes; 0 when
    /// there is no more. In all at most 1 MiB. Called with growing offsets when the manifest says `state: keep`.
    fn export_state(&mut self, offset: usize, out: &mut [u8]) -> usize {
        let _ = (offset, out);
        0
    }

    /// Takes a part of the state that the last generation wrote, from byte `offset` of it on, after [`Filter::new`] and
    /// before the first burst. The parts come in order; they need not be those in which the state was written
    /// ([`Records`](crate::Records) puts them together).
    ///
    /// # Errors
    /// Discards all of it, when it is not to be understood: the instance is then made anew.
    fn import_state(&mut self, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        let _ = (offset, bytes);
        Ok(())
    }
}

/// A filter with its manifest; [`filter!`](crate::filter!) implements it.
pub trait Module: Filter {
    /// The manifest.
    const MANIFEST: Manifest;
    /// Whether the state goes to the next generation.
    const KEEPS_STATE: bool;
}
