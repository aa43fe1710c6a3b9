//! What a peer of a memif port may say and write.

use smpnet_memif_protocol::{
    desc::{self, Desc},
    session::{Session, Step},
    wire::{MESSAGE_LEN, Message},
};

/// Rings that the session's interface has, from client to server and back.
const RINGS: (usize, usize) = (2, 3);
/// Sizes of the regions that descriptors point into.
const SIZES: [u64; 2] = [4096, 1 << 20];

/// First a client's messages, each behind a byte that says whether a descriptor comes with it, then a ring of descriptors.
/// The first byte says how many messages there are.
pub fn memif(data: &[u8]) {
    let Some((count, mut rest)) = data.split_first() else { return };
    let mut session: Session<usize> = Session::new();
    let mut descriptors = 0;
    for _ in 0..*count {
        let Some((head, after)) = rest.split_at_checked(MESSAGE_LEN + 1) else { break };
        rest = after;
        let Ok(message) = Message::parse(&head[1..]) else { continue };
        // What was understood means the same when it is said again; texts that fill their field lose their last byte.
        let again = Message::parse(&message.encode());
        assert!(again.as_ref().is_ok_and(|m| m.to_string() == message.to_string()));
        assert_eq!(again.as_ref().map(|m| Message::parse(&m.encode())), Ok(again.clone()));
        let fd = (head[0] & 1 == 1).then(|| {
            descriptors += 1;
            descriptors
        });
        match session.take(message, fd) {
            Ok(Step::Find(_)) => session.found(RINGS.0, RINGS.1),
            Ok(Step::Connect(offer, _)) => {
                assert!(offer.c2s.len() <= RINGS.0 && offer.s2c.len() <= RINGS.1 && offer.regions.len() <= 256);
                assert!(offer.c2s.len() + offer.s2c.len() > 0);
                let rings = || offer.c2s.iter().chain(&offer.s2c);
                assert!(rings().all(|(ring, _)| ring.log2_size <= 14));
                // Each descriptor has one owner.
                let mut fds: Vec<usize> = rings().map(|(_, fd)| *fd).chain(offer.regions.iter().map(|r| r.0)).collect();
                fds.sort_unstable();
                assert!(fds.windows(2).all(|w| w[0] != w[1]) && fds.last().is_none_or(|last| *last <= descriptors));
            }
            Ok(Step::Ack | Step::Bye(_) | Step::Wait) => {}
            Err(refusal) => assert!(!refusal.to_string().is_empty()),
        }
    }
    let ring: Vec<Desc> = rest.chunks_exact(desc::DESC_LEN).map(read).collect();
    let (mut at, mut pieces) = (0, Vec::new());
    while at < ring.len() {
        let avail = (ring.len() - at).min(1 << 14) as u16;
        let walked = desc::walk(avail, |place| ring[at + usize::from(place)], |d| d.lies_within(&SIZES), &mut pieces);
        assert!(walked.used >= 1 && walked.used <= avail);
        if let Ok(len) = walked.outcome {
            assert!(len > 0 && len <= desc::FRAME_MAX && pieces.len() == usize::from(walked.used));
            assert_eq!(len, pieces.iter().map(|p| p.length as usize).sum::<usize>());
            for piece in &pieces {
                let size = SIZES[usize::from(piece.region)];
                assert!(piece.length > 0 && u64::from(piece.offset) + u64::from(piece.length) <= size);
            }
        }
        at += usize::from(walked.used);
    }
}

fn read(bytes: &[u8]) -> Desc {
    let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_ne_bytes).unwrap_or_default();
    let desc = Desc::from_words(word(0), word(8));
    assert_eq!(Desc::from_words(desc.first_word(), desc.second_word()), desc);
    desc
}
