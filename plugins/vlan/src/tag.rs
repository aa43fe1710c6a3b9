//! The 802.1Q tag in the bytes of a frame: four bytes between the source address and the EtherType.

/// Bytes of a tag.
pub const TAG: usize = 4;
/// Bytes of an Ethernet header without a tag.
pub const ETHER_HEADER: usize = 14;
/// Bytes of the two addresses.
const ADDRESSES: usize = 12;
/// EtherType of 802.1Q.
const DOT1Q: [u8; 2] = [0x81, 0x00];
/// EtherType of 802.1ad.
const DOT1AD: [u8; 2] = [0x88, 0xa8];

/// Whether a frame has a tag, of 802.1Q or 802.1ad, and is long enough to hold one.
pub fn is_tagged(frame: &[u8]) -> bool {
    frame.len() >= ETHER_HEADER + TAG && (frame[12..14] == DOT1Q || frame[12..14] == DOT1AD)
}

/// Writes the tag into a frame whose first four bytes were just put before its header.
pub fn insert(frame: &mut [u8], tci: u16) {
    frame.copy_within(TAG..TAG + ADDRESSES, 0);
    frame[12..14].copy_from_slice(&DOT1Q);
    frame[14..16].copy_from_slice(&tci.to_be_bytes());
}

/// Moves the addresses over the tag; the frame then begins four bytes later.
pub fn remove(frame: &mut [u8]) {
    frame.copy_within(0..ADDRESSES, TAG);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_goes_in_and_comes_out_again() {
        let plain: Vec<u8> = (0..12).chain([0x08, 0x00]).chain(100..110).collect();
        let mut frame = vec![0; TAG];
        frame.extend(&plain);
        insert(&mut frame, 0xa00a);
        assert_eq!(frame[..12], plain[..12]);
        assert_eq!(frame[12..18], [0x81, 0x00, 0xa0, 0x0a, 0x08, 0x00]);
        assert!(is_tagged(&frame));
        remove(&mut frame);
        assert_eq!(frame[TAG..], plain);
        assert!(!is_tagged(&plain));
    }

    #[test]
    fn a_short_frame_has_no_tag() {
        assert!(!is_tagged(&[0x81; 17]));
        assert!(!is_tagged(&[]));
    }
}
