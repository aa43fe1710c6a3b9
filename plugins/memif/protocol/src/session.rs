//! What a server has been told by a client so far: the dialogue up to `connect`, as a pure function of its messages.
//!
//! `F` stands for the descriptor that comes with a message.

use crate::{
    error::MemifError,
    wire::{AddRing, Hello, Init, LOG2_SIZE_MAX, Message, RING_C2S, VERSION},
};

/// Highest number of a region.
pub const REGION_INDEX_MAX: u16 = 255;

/// A client's offer.
#[derive(Debug)]
pub struct Offer<F> {
    /// Regions, by number, and the bytes that are promised of each.
    pub regions: Vec<(F, u64)>,
    /// Rings from client to server, by number, with their interrupts.
    pub c2s: Vec<(AddRing, F)>,
    /// Rings from server to client.
    pub s2c: Vec<(AddRing, F)>,
}

impl<F> Default for Offer<F> {
    fn default() -> Self {
        Offer { regions: Vec::new(), c2s: Vec::new(), s2c: Vec::new() }
    }
}

/// What the server is to do.
#[derive(Debug)]
pub enum Step<F> {
    /// Look whether there is such an interface for this client, and answer with `ack`.
    Find(Init),
    /// Answer with `ack`.
    Ack,
    /// Take the offer up, and answer with `connected`. The text is the client's name of its interface.
    Connect(Offer<F>, String),
    /// The client said goodbye.
    Bye(String),
    /// Nothing.
    Wait,
}

/// A client's dialogue.
#[derive(Debug)]
pub struct Session<F> {
    stage: Stage,
    offer: Offer<F>,
    c2s_max: usize,
    s2c_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Named,
    Connected,
}

impl<F> Session<F> {
    /// A new client.
    pub fn new() -> Self {
        Session { stage: Stage::New, offer: Offer::default(), c2s_max: 0, s2c_max: 0 }
    }

    /// The interface was found; it takes so many rings of each direction.
    pub fn found(&mut self, c2s_max: usize, s2c_max: usize) {
        self.stage = Stage::Named;
        (self.c2s_max, self.s2c_max) = (c2s_max, s2c_max);
    }

    /// The next message. An error ends the dialogue; its text is what the client is told.
    pub fn take(&mut self, message: Message, fd: Option<F>) -> Result<Step<F>, MemifError> {
        let refused = |why: String| Err(MemifError::Refused(why));
        match (self.stage, message) {
            (_, Message::Disconnect { reason, .. }) => Ok(Step::Bye(reason)),
            (_, Message::Ack) => Ok(Step::Wait),
            (Stage::New, Message::Init(init)) => match init.version {
                VERSION => Ok(Step::Find(init)),
                other => refused(format!("memif version {}.{} is not 2.0", other >> 8, other & 0xff)),
            },
            (Stage::Named, Message::AddRegion { index, size }) => {
                let Some(fd) = fd else { return refused(format!("region {index} without a descriptor")) };
                if usize::from(index) != self.offer.regions.len() || index > REGION_INDEX_MAX {
                    return refused(format!("region {index} after {} others", self.offer.regions.len()));
                }
                self.offer.regions.push((fd, size));
                Ok(Step::Ack)
            }
            (Stage::Named, Message::AddRing(ring)) => {
                let Some(fd) = fd else { return refused(format!("ring {} without an interrupt", ring.index)) };
                let (rings, max) = match ring.flags & RING_C2S {
                    0 => (&mut self.offer.s2c, self.s2c_max),
                    _ => (&mut self.offer.c2s, self.c2s_max),
                };
                if usize::from(ring.index) != rings.len() || rings.len() >= max {
                    return refused(format!("ring {} after {} others, of at most {max}", ring.index, rings.len()));
                }
                if ring.log2_size > LOG2_SIZE_MAX {
                    return refused(format!("a ring of 2^{} entries (2^{LOG2_SIZE_MAX} are possible)", ring.log2_size));
                }
                rings.push((ring, fd));
                Ok(Step::Ack)
            }
            (Stage::Named, Message::Connect(name)) => {
                if self.offer.c2s.is_empty() && self.offer.s2c.is_empty() {
                    return refused("no rings".into());
                }
                self.stage = Stage::Connected;
                Ok(Step::Connect(std::mem::take(&mut self.offer), name))
            }
            (stage, message) => refused(format!("unexpected {message} ({})", stage.expects())),
        }
    }
}

impl<F> Default for Session<F> {
    fn default() -> Self {
        Session::new()
    }
}

impl Stage {
    fn expects(self) -> &'static str {
        match self {
            Stage::New => "the client has not said init",
            Stage::Named => "the client has not said connect",
            Stage::Connected => "the client is connected",
        }
    }
}

/// What a server with so many receive and transmit queues says first.
pub fn hello(rx_queues: usize, tx_queues: usize) -> Message {
    let highest = |n: usize| u16::try_from(n.saturating_sub(1)).unwrap_or(u16::MAX);
    Message::Hello(Hello {
        name: concat!("smpnet ", env!("CARGO_PKG_VERSION")).into(),
        min_version: VERSION,
        max_version: VERSION,
        max_region: REGION_INDEX_MAX,
        max_s2c_ring: highest(tx_queues),
        max_c2s_ring: highest(rx_queues),
        max_log2_ring_size: LOG2_SIZE_MAX,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::MODE_ETHERNET;

    fn init() -> Message {
        Message::Init(Init { version: VERSION, id: 3, mode: MODE_ETHERNET, secret: [0; 24], name: "x".into() })
    }

    fn ring(flags: u16, index: u16) -> Message {
        Message::AddRing(AddRing { flags, index, region: 0, offset: 0, log2_size: 10, private_header: 0 })
    }

    fn named() -> Session<u32> {
        let mut session = Session::new();
        assert!(matches!(session.take(init(), None), Ok(Step::Find(_))));
        session.found(1, 2);
        session
    }

    #[test]
    fn a_dialogue_ends_in_an_offer() {
        let mut session = named();
        let steps = [
            (Message::AddRegion { index: 0, size: 4096 }, Some(10)),
            (Message::AddRegion { index: 1, size: 8192 }, Some(11)),
            (ring(RING_C2S, 0), Some(20)),
            (ring(0, 0), Some(30)),
            (ring(0, 1), Some(31)),
        ];
        for (message, fd) in steps {
            assert!(matches!(session.take(message, fd), Ok(Step::Ack)));
        }
        let Ok(Step::Connect(offer, name)) = session.take(Message::Connect("c".into()), None) else {
            panic!("no offer")
        };
        assert_eq!(name, "c");
        assert_eq!(offer.regions, [(10, 4096), (11, 8192)]);
        assert_eq!(offer.c2s.iter().map(|r| r.1).collect::<Vec<_>>(), [20]);
        assert_eq!(offer.s2c.iter().map(|r| r.1).collect::<Vec<_>>(), [30, 31]);
        let why = session.take(Message::Connect("c".into()), None).unwrap_err().to_string();
        assert_eq!(why, "unexpected connect (the client is connected)");
    }

    #[test]
    fn what_is_out_of_order_or_too_much_is_refused() {
        let mut session: Session<u32> = Session::new();
        assert!(session.take(Message::AddRegion { index: 0, size: 1 }, Some(1)).is_err());
        assert!(session.take(Message::Connect(String::new()), None).is_err());
        let mut old = Init { version: 0x0100, id: 0, mode: 0, secret: [0; 24], name: String::new() };
        let why = session.take(Message::Init(old.clone()), None).unwrap_err().to_string();
        assert_eq!(why, "memif version 1.0 is not 2.0");
        old.version = VERSION;
        assert!(matches!(session.take(Message::Init(old), None), Ok(Step::Find(_))));
        let bad: [(Message, Option<u32>); 8] = [
            (init(), None),
            (Message::AddRegion { index: 0, size: 1 }, None),
            (Message::AddRegion { index: 1, size: 1 }, Some(1)),
            (ring(0, 0), None),
            (ring(0, 1), Some(1)),
            (ring(RING_C2S, 1), Some(1)),
            (Message::Connect(String::new()), None),
            (Message::Connected(String::new()), None),
        ];
        for (message, fd) in bad {
            let text = format!("{message:?}");
            assert!(named().take(message, fd).is_err(), "{text}");
        }
        let mut session = named();
        assert!(matches!(session.take(ring(RING_C2S, 0), Some(1)), Ok(Step::Ack)));
        assert!(session.take(ring(RING_C2S, 1), Some(1)).is_err());
    }
}
