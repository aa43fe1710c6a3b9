//! From the languages of other filters to npf.conf: pf.conf(5), and what `nft -j list ruleset` prints.
//!
//! ```text
//! pf.conf -- pf: statements, macros put in --+
//!                                            +--> Words, each checked by the parser --> npf.conf and notes
//! JSON of nft -- nft: chains, jumps put in --+
//! ```
//!
//! Only the common subset is known. What cannot be carried over is never left out silently: it is a [`Note`], and stands
//! as a comment where it would have been. The text always parses; whether it may be used as it is, the notes say.

mod maps;
mod nft;
mod output;
mod pf;
#[cfg(test)]
mod tests;
mod words;

pub use nft::nft;
pub use output::{Converted, Note, Origin};
pub use pf::pf;

/// Why there is nothing to convert.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The text is no JSON.
    #[error("this is not what \"nft -j list ruleset\" prints: {0}")]
    Json(#[from] serde_json::Error),
    /// It is, but of something else.
    #[error("this is not what \"nft -j list ruleset\" prints: there is no list \"nftables\" in it")]
    NoRuleset,
}
