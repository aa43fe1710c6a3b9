use super::*;

#[test]
fn bytes_come_out_as_they_went_in_over_many_laps() {
    let (mut w, mut r) = byte_ring(64);
    let mut next = 0u8;
    let mut expected = 0u8;
    for len in (1..=40).cycle().take(1000) {
        w.enter(|| 0);
        assert!(w.room(len));
        let bytes: Vec<u8> = (0..len)
            .map(|_| {
                next = next.wrapping_add(1);
                next
            })
            .collect();
        let (a, b) = bytes.split_at(len / 3);
        w.put(a);
        w.put(b);
        w.leave();
        assert_eq!(r.available(), len);
        let mut out = vec![0; len];
        r.peek(0, &mut out);
        for b in out {
            expected = expected.wrapping_add(1);
            assert_eq!(b, expected);
        }
        r.take(len);
    }
}

#[test]
fn a_full_ring_refuses_and_loses_nothing() {
    let (mut w, mut r) = byte_ring(10);
    let gauge = w.gauge();
    assert_eq!(gauge.size(), 64);
    w.enter(|| 1);
    assert!(w.room(60));
    w.put(&[7; 60]);
    assert!(!w.room(5));
    assert!(w.room(4));
    w.put(&[8; 4]);
    assert_eq!((r.available(), gauge.used()), (0, 0), "nothing is seen before the writer leaves");
    w.leave();
    assert_eq!((r.available(), gauge.used()), (64, 64));
    r.take(60);
    assert!(w.room(60));
    let mut out = [0; 4];
    r.peek(0, &mut out);
    assert_eq!(out, [8; 4]);
}

#[test]
#[should_panic(expected = "more is written")]
fn writing_without_room_is_refused() {
    let (mut w, _r) = byte_ring(64);
    w.room(3);
    w.put(&[0; 4]);
}

#[test]
fn the_horizon_is_the_stamp_of_a_writer_inside_and_now_otherwise() {
    let (mut w, r) = byte_ring(64);
    assert_eq!(r.horizon(5), 5);
    w.enter(|| 7);
    assert_eq!(r.horizon(9), 7);
    w.leave();
    assert_eq!(r.horizon(9), 9);
}

#[test]
fn only_one_writer_rings_and_only_for_a_sleeper() {
    let bell = Doorbell::default();
    assert!(!bell.must_ring());
    bell.arm();
    assert!(bell.must_ring());
    assert!(!bell.must_ring());
    bell.arm();
    bell.disarm();
    assert!(!bell.must_ring());
}
