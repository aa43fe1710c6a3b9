//! Modules of others for the tests of this crate, written in the text form.

/// Where the ring of these modules is; they have one page of memory and windows of 128 bytes.
pub const RING: u32 = 1024;

/// What a module has besides the usual.
#[derive(Default)]
pub struct Guest<'a> {
    /// More keys of the manifest, each with a comma before it.
    pub manifest: &'a str,
    /// Imports.
    pub imports: &'a str,
    /// More items of the module.
    pub items: &'a str,
    /// The verdict on a packet, over `$i` (its place), `$data` and `$cap`.
    pub prog: &'a str,
}

impl Guest<'_> {
    /// The text of the module.
    pub fn text(&self) -> String {
        let manifest =
            format!(r#"{{"abi":"1.0","name":"test","version":"0.1"{}}}"#, self.manifest).replace('"', "\\\"");
        let Guest { imports, items, prog, .. } = self;
        format!(
            r#"(module $test
  {imports}
  (memory (export "memory") 1)
  (func (export "smpnet_ring") (result i32) (i32.const {RING}))
  {items}
  (func $judge (param $i i32) (param $data i32) (param $cap i32) (result i32)
    {prog})
  (func $filter (export "smpnet_filter") (param $n i32) (result i32) (local $i i32) (local $at i32)
    (block $done
      (loop $next
        (br_if $done (i32.ge_u (local.get $i) (local.get $n)))
        (local.set $at (i32.add (i32.const {RING}) (i32.mul (local.get $i) (i32.const 32))))
        (i32.store offset=2112 (i32.add (i32.const {RING}) (i32.mul (local.get $i) (i32.const 8)))
          (call $judge (local.get $i)
            (i32.load offset=64 (local.get $at))
            (i32.load16_u offset=68 (local.get $at))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br $next)))
    (local.get $n))
  (@custom "smpnet.filter" "{manifest}"))"#
        )
    }

    pub fn wasm(&self) -> Vec<u8> {
        wat::parse_str(self.text()).unwrap()
    }
}

/// A module with this verdict on a packet.
pub fn guest(prog: &str) -> Vec<u8> {
    Guest { prog, ..Guest::default() }.wasm()
}

/// Drops UDP packets to a port, which lies at 22 of an IPv4 packet.
pub fn drops_port(port: u16) -> Vec<u8> {
    guest(&drop_port(port))
}

/// The `prog` of that.
pub fn drop_port(port: u16) -> String {
    let swapped = port.swap_bytes();
    format!("(i32.eq (i32.load16_u offset=22 (local.get $data)) (i32.const {swapped}))")
}
