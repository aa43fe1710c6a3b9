//! The options of the driver in the configuration.

use crate::error::HostError;
use serde::{Deserialize, Deserializer, Serialize, de};
use smpnet_plugin::{Error, PortRequest};

/// `options = { ... }` of an interface with `driver = "af_xdp"`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// The kernel's device; the interface's own name if it is not given.
    pub device: String,
    /// Queues of the device that are served, from the first on; all that it has if it is not given.
    pub queues: Option<u32>,
    /// Where the program hangs.
    pub mode: Mode,
    /// Whether the device writes into the packet pool itself.
    #[serde(deserialize_with = "choice")]
    pub zero_copy: Choice,
    /// Frames longer than a cell, as chains; off, the MTU is bounded.
    #[serde(deserialize_with = "choice")]
    pub multi_buffer: Choice,
    /// Whether checksums that a sender on this machine left open are looked for; auto does so on software devices.
    #[serde(deserialize_with = "choice")]
    pub open_checksums: Choice,
    /// Packet sockets where AF_XDP cannot be had; if it is not given, yes, unless `mode` or `zero_copy` ask for more.
    pub fallback: Option<bool>,
    /// Sizes of the rings.
    pub ring: RingOptions,
    /// Poll the device from the worker instead of by its interrupts.
    pub busy_poll: Option<BusyPoll>,
    /// Receive frames for other stations as well.
    pub promisc: bool,
    /// Always true: XDP takes frames before the kernel's own stack sees them.
    pub exclusive: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            device: String::new(),
            queues: None,
            mode: Mode::Auto,
            zero_copy: Choice::Auto,
            multi_buffer: Choice::Auto,
            open_checksums: Choice::Auto,
            fallback: None,
            ring: RingOptions::default(),
            busy_poll: None,
            promisc: false,
            exclusive: true,
        }
    }
}

/// Where the program hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver if it can, else generic.
    Auto,
    /// In the device's driver, before there is a socket buffer.
    Native,
    /// Behind the driver, on socket buffers: every device, slower.
    Generic,
}

/// `"auto"`, `true` or `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// Where it can be had.
    Auto,
    /// It must.
    Yes,
    /// It must not.
    No,
}

fn choice<'de, D: Deserializer<'de>>(from: D) -> Result<Choice, D::Error> {
    match serde_json::Value::deserialize(from)? {
        serde_json::Value::Bool(true) => Ok(Choice::Yes),
        serde_json::Value::Bool(false) => Ok(Choice::No),
        serde_json::Value::String(word) if word == "auto" => Ok(Choice::Auto),
        other => Err(de::Error::custom(format!("{other} is not one of \"auto\", true and false"))),
    }
}

/// Sizes of the rings of each queue, in entries: powers of two from 64 to 32768. What is not given depends on the cells
/// of the packet pool and the number of queues.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RingOptions {
    /// Frames that wait to be taken up.
    pub rx: Option<u32>,
    /// Cells that the kernel has to fill; as many as `rx` if it is not given.
    pub fill: Option<u32>,
    /// Packets that wait to be sent.
    pub tx: Option<u32>,
}

/// Sizes of a queue's rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Sizes {
    /// Receive ring.
    pub rx: u32,
    /// Fill ring.
    pub fill: u32,
    /// Transmit ring, and completion ring.
    pub tx: u32,
}

impl RingOptions {
    /// Those of each of `queues` queues with a pool of `cells`. A ring full of frames is also cells that others lack, so a
    /// port takes an eighth of the pool at most (its fill and receive rings together), unless it is told otherwise.
    pub fn sizes(&self, cells: u32, queues: u32) -> Sizes {
        let part = |of: u32, most: u32| {
            let n = (cells / of / queues.max(1)).clamp(64, most);
            1 << n.ilog2()
        };
        let rx = self.rx.unwrap_or_else(|| part(16, 2048));
        Sizes { rx, fill: self.fill.unwrap_or(rx), tx: self.tx.unwrap_or_else(|| part(32, 1024)) }
    }
}

/// Busy polling (socket(7), `SO_PREFER_BUSY_POLL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BusyPoll {
    /// Microseconds, 1 to 1000: how long the kernel polls in one call. It polls once for a socket that does not block, so
    /// that any number turns it on.
    pub usecs: u32,
    /// Most frames in one call, 1 to 64.
    pub budget: u32,
}

impl Default for BusyPoll {
    fn default() -> Self {
        BusyPoll { usecs: 20, budget: 64 }
    }
}

impl Options {
    /// Those of a request, checked.
    pub fn of(req: &PortRequest<'_>) -> Result<Self, Error> {
        let mut options: Options = if req.options.is_null() { Options::default() } else { req.parse()? };
        if options.device.is_empty() {
            options.device = req.name.to_owned();
        }
        options.check()?;
        Ok(options)
    }

    /// Whether packet sockets may serve where AF_XDP cannot be had.
    pub fn falls_back(&self) -> bool {
        self.fallback.unwrap_or(self.mode == Mode::Auto && self.zero_copy != Choice::Yes)
    }

    fn check(&self) -> Result<(), HostError> {
        let ring = |n: Option<u32>| n.is_none_or(|n| n.is_power_of_two() && (64..=32768).contains(&n));
        let busy = self.busy_poll.unwrap_or_default();
        let rules = [
            (self.queues.is_none_or(|q| (1..=256).contains(&q)), "queues must be 1 to 256"),
            (ring(self.ring.rx), "ring.rx must be a power of two from 64 to 32768"),
            (ring(self.ring.fill), "ring.fill must be a power of two from 64 to 32768"),
            (ring(self.ring.tx), "ring.tx must be a power of two from 64 to 32768"),
            ((1..=1000).contains(&busy.usecs), "busy_poll.usecs must be 1 to 1000"),
            ((1..=64).contains(&busy.budget), "busy_poll.budget must be 1 to 64"),
            (
                self.mode != Mode::Generic || self.zero_copy != Choice::Yes,
                "zero_copy = true needs the device's driver, and mode = \"generic\" goes past it",
            ),
            (
                self.exclusive,
                "exclusive = false cannot be had with AF_XDP, which takes frames before the kernel's own stack sees them: use driver = \"af_packet\"",
            ),
        ];
        HostError::check_rules(&rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_words_or_truth_values() {
        let of = |text: &str| serde_json::from_str::<Options>(text).map_err(|e| e.to_string());
        assert_eq!(of(r#"{"zero_copy": "auto"}"#).unwrap().zero_copy, Choice::Auto);
        assert_eq!(of(r#"{"zero_copy": true, "multi_buffer": false}"#).unwrap().multi_buffer, Choice::No);
        assert!(of(r#"{"zero_copy": "yes"}"#).unwrap_err().contains(r#""yes" is not one of "auto", true and false"#));
    }

    #[test]
    fn rings_leave_the_pool_to_others() {
        let sizes = |cells, queues| RingOptions::default().sizes(cells, queues);
        assert_eq!(sizes(65536, 1), Sizes { rx: 2048, fill: 2048, tx: 1024 });
        assert_eq!(sizes(65536, 8), Sizes { rx: 512, fill: 512, tx: 256 });
        assert_eq!(sizes(1024, 4), Sizes { rx: 64, fill: 64, tx: 64 });
        let told = RingOptions { rx: Some(128), ..RingOptions::default() };
        assert_eq!(told.sizes(65536, 1), Sizes { rx: 128, fill: 128, tx: 1024 });
    }
}
