//! Endpoints of bpf: captures, listeners, injection.

use super::{
    show::{Answer, to_json},
    state::Daemon,
};
use crate::{
    api::{ApiError, Call, Endpoint, Handler, Peer, Stream},
    capture::{Capture, CaptureError, Request, compile},
};
use serde::Deserialize;
use serde_json::{Value, json};
use smpnet_runtime::Dir;
use smpnet_stack::{IfIndex, Injected, ListenerOwner, ListenerStatus, StackError};

/// The name that stands for every interface.
const ANY: &str = "any";
/// Header of a capture's answer: the number of its listener.
pub const LISTENER_HEADER: &str = "smpnet-listener";
/// Trailer of a capture's answer: why it ended, as [`smpnet_stack::Ended::name`] has it; none when it ended by its count.
pub const ENDED_TRAILER: &str = "smpnet-ended";

/// The endpoints.
pub fn endpoints() -> Vec<Endpoint<Daemon>> {
    let endpoint = |method, path, id, summary, body, returns, handler| Endpoint {
        method,
        path,
        id,
        summary,
        query: &[],
        body,
        returns,
        handler,
    };
    let one = "/v1/bpf/listeners/{id}";
    vec![
        endpoint(
            "post",
            "/v1/bpf/capture",
            "capturePackets",
            "Listen to packets: pcapng as they come, until the client goes away or the listener is ended (the trailer \
             smpnet-ended says why: asked, interface-gone or stopped)",
            Some("CaptureRequest"),
            "Pcapng",
            Handler::Stream("application/x-pcapng", capture),
        ),
        endpoint(
            "get",
            "/v1/bpf/listeners",
            "listListeners",
            "Who listens to packets, with counters of every CPU",
            None,
            "ListenerList",
            Handler::Json(listeners),
        ),
        endpoint("get", one, "getListener", "One listener", None, "Listener", Handler::Json(listener)),
        endpoint(
            "patch",
            one,
            "changeListener",
            "Change a running listener's filter, write filter or interface, without a gap; lock it",
            Some("ListenerChange"),
            "Listener",
            Handler::Json(change),
        ),
        endpoint(
            "delete",
            one,
            "endListener",
            "End a listener; its stream comes to an end with the statistics",
            None,
            "Changed",
            Handler::Json(end),
        ),
        endpoint(
            "post",
            "/v1/bpf/inject",
            "injectPackets",
            "Send packets out of an interface, or take them as received by it",
            Some("InjectRequest"),
            "Injected",
            Handler::Json(inject),
        ),
    ]
}

/// Their schemas.
pub fn schemas() -> Value {
    let integer = || json!({"type": "integer"});
    let text = |d: &str| json!({"type": "string", "description": d});
    let flag = |d: &str| json!({"type": "boolean", "description": d});
    let number = |d: &str| json!({"type": "integer", "minimum": 0, "description": d});
    let direction = json!({"type": "string", "enum": ["in", "out", "both"]});
    let request = |d: &str, required: &[&str], fields: Value| {
        json!({
            "type": "object", "description": d, "required": required, "properties": fields,
            "additionalProperties": false,
        })
    };
    let counts = |more: Value| {
        let mut fields = json!({"received": integer(), "matched": integer(), "dropped": integer()});
        if let (Value::Object(f), Value::Object(m)) = (&mut fields, more) {
            f.extend(m);
        }
        fields
    };
    json!({
        "Pcapng": {"type": "string", "format": "binary"},
        "CaptureRequest": request("What is to be captured.", &["interface"], json!({
            "interface": text("name, or `any`"), "filter": text("pcap-filter(7); empty for everything"),
            "direction": direction, "drops": flag("what is dropped, instead of what passes"),
            "promisc": flag("the interface is promiscuous meanwhile"),
            "snaplen": number("most bytes kept of a packet; 0 for all"),
            "count": number("end after so many packets; 0 for never"),
            "buffer": number("bytes of the buffer on each CPU; 0 for the default"),
            "write_filter": text("what may be sent through the listener; without it nothing may"),
            "lock": flag("nothing of the listener can be changed once it runs"),
        })),
        "ListenerList": {"type": "array", "items": {"$ref": "#/components/schemas/Listener"}},
        "Listener": {"type": "object", "description": "A listener.", "properties": counts(json!({
            "id": integer(), "pid": integer(), "uid": integer(), "command": {"type": "string"},
            "interface": text("name, or `any`"), "direction": direction, "drops": {"type": "boolean"},
            "link": {"type": "string", "enum": ["ether", "raw"]},
            "filter": {"type": "string"}, "promisc": {"type": "boolean"}, "injects": {"type": "boolean"}, "write_filter": {"type": "string"},
            "injected": {"$ref": "#/components/schemas/Injected"}, "snaplen": integer(), "locked": {"type": "boolean"},
            "generation": integer(), "delivered": integer(),
            "cpus": {"type": "array", "items": {"type": "object", "properties": counts(json!({
                "worker": integer(), "bytes": integer(), "ring_used": integer(), "ring_size": integer(),
            }))}},
        }))},
        "ListenerChange": request("What changes; what is left out stays.", &[], json!({
            "filter": text("empty for everything"), "write_filter": text("empty for everything"),
            "interface": text("name, or `any`"), "lock": flag("true: nothing can be changed from now on"),
        })),
        "InjectRequest": request("Packets, through an interface or a listener.", &["packets"], json!({
            "interface": {"type": "string"}, "listener": integer(),
            "packets": {"type": "array", "items": {"type": "string", "description": "hex digits"}},
            "direction": {"type": "string", "enum": ["in", "out"]},
            "write_filter": text("only packets that it accepts are sent"),
        })),
        "Injected": {"type": "object", "description": "What became of packets that were to be sent.", "properties": {
            "sent": integer(), "refused": integer(), "failed": integer(),
        }},
    })
}

impl From<CaptureError> for ApiError {
    fn from(e: CaptureError) -> ApiError {
        match e {
            CaptureError::Stack(e) => refused(e),
            CaptureError::Thread(_) => ApiError::internal(e.to_string()),
            e => ApiError::bad(e.to_string()),
        }
    }
}

fn refused(e: StackError) -> ApiError {
    let text = e.to_string();
    match e {
        StackError::NoListener(_) | StackError::NoInterface(_) => ApiError::not_found(text),
        StackError::BpfLocked(..) => ApiError { status: 403, ..ApiError::bad(text) },
        _ => ApiError::conflict(text),
    }
}

/// The interface of a name; none for all.
fn interface(d: &Daemon, name: &str) -> Result<Option<IfIndex>, ApiError> {
    if name == ANY { Ok(None) } else { d.router.index(name).map(Some).map_err(ApiError::not_found) }
}

/// The process behind a request.
fn owner(peer: Peer) -> ListenerOwner {
    let line = std::fs::read(format!("/proc/{}/cmdline", peer.pid)).unwrap_or_default();
    let words: Vec<String> =
        line.split(|b| *b == 0).filter(|w| !w.is_empty()).map(|w| String::from_utf8_lossy(w).into_owned()).collect();
    ListenerOwner { pid: peer.pid, uid: peer.uid, command: words.join(" ") }
}

fn capture(d: &Daemon, call: &Call) -> Result<Stream, ApiError> {
    let request: Request = call.body()?;
    let interface = interface(d, &request.interface)?;
    let Capture { listener, chunks } = Capture::start(&d.router.stack, &request, interface, owner(call.peer))?;
    let what =
        json!({"listener": listener.id(), "interface": request.interface, "what": "opened", "pid": call.peer.pid});
    d.router.bus.publish("capture", what);
    let header = (LISTENER_HEADER, listener.id().to_string());
    let ended = {
        let listener = listener.clone();
        move || listener.ended().map(smpnet_stack::Ended::name)
    };
    Ok(Stream { header, chunks, trailer: (ENDED_TRAILER, Box::new(ended)), gone: Box::new(move || listener.wake()) })
}

/// A listener with the name of its interface.
fn named(d: &Daemon, l: ListenerStatus) -> Answer {
    let name = match l.ifindex {
        None => ANY.to_owned(),
        Some(i) => {
            let all = d.router.stack.interfaces();
            all.into_iter().find(|s| s.index == i).map_or_else(|| format!("if{i}"), |s| s.name)
        }
    };
    let mut json = to_json(l)?;
    json["interface"] = name.into();
    Ok(json)
}

fn listeners(d: &Daemon, _: &Call) -> Answer {
    d.router.stack.bpf_listeners().into_iter().map(|l| named(d, l)).collect()
}

fn id(call: &Call) -> Result<u64, ApiError> {
    let id = call.path("id");
    id.parse().map_err(|_| ApiError::bad(format!("\"{id}\" is not the number of a listener")))
}

fn listener(d: &Daemon, call: &Call) -> Answer {
    named(d, d.router.stack.bpf_listener(id(call)?).map_err(refused)?.status())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    filter: Option<String>,
    write_filter: Option<String>,
    interface: Option<String>,
    #[serde(default)]
    lock: bool,
}

fn change(d: &Daemon, call: &Call) -> Answer {
    let (stack, id, change) = (&d.router.stack, id(call)?, call.body::<Change>()?);
    let listener = stack.bpf_listener(id).map_err(refused)?;
    // Everything that can be wrong is found before anything is changed.
    let to = change.interface.as_deref().map(|name| interface(d, name)).transpose()?;
    let filter = change.filter.map(|f| compile("filter", &f, listener.link())).transpose()?;
    let write = change.write_filter.map(|f| compile("write filter", &f, listener.link())).transpose()?;
    if let Some(to) = to {
        stack.bpf_set_interface(id, to).map_err(refused)?;
    }
    if let Some(filter) = filter {
        stack.bpf_set_filter(id, filter).map_err(refused)?;
    }
    if let Some(write) = write {
        listener.set_write_filter(write).map_err(refused)?;
    }
    if change.lock {
        listener.lock();
    }
    named(d, listener.status())
}

fn end(d: &Daemon, call: &Call) -> Answer {
    let id = id(call)?;
    d.router.stack.bpf_listener(id).map_err(refused)?.finish();
    Ok(json!({"listener": id}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Inject {
    interface: Option<String>,
    listener: Option<u64>,
    packets: Vec<String>,
    #[serde(default)]
    direction: Way,
    write_filter: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Way {
    In,
    #[default]
    Out,
}

fn inject(d: &Daemon, call: &Call) -> Answer {
    let (stack, request) = (&d.router.stack, call.body::<Inject>()?);
    let dir = match request.direction {
        Way::In => Dir::In,
        Way::Out => Dir::Out,
    };
    let packets = request.packets.into_iter().enumerate().map(|(n, packet)| {
        super::requests::packet(&packet).map_err(|e| ApiError::bad(format!("packet {}: {e}", n + 1)))
    });
    let mut packets = packets.collect::<Result<Vec<_>, _>>()?;
    let done = match (request.interface, request.listener) {
        (None, Some(_)) if request.write_filter.is_some() => {
            return Err(ApiError::bad("a listener has a write filter of its own; set it with `smpnet bpf setwf`"));
        }
        (None, Some(id)) => stack.bpf_inject_as(id, dir, packets).map_err(refused)?,
        (Some(name), None) => {
            let index =
                interface(d, &name)?.ok_or_else(|| ApiError::bad("packets go out of one interface: name it"))?;
            let link = stack.bpf_link(Some(index)).map_err(refused)?;
            let filter = compile("write filter", request.write_filter.as_deref().unwrap_or(""), link)?;
            let all = packets.len() as u64;
            packets.retain(|p| filter.as_ref().is_none_or(|f| f.accepts(p)));
            let refused_by_filter = all - packets.len() as u64;
            let done = stack.bpf_inject(index, dir, packets).map_err(refused)?;
            Injected { refused: refused_by_filter, ..done }
        }
        _ => return Err(ApiError::bad("packets go through either an \"interface\" or a \"listener\"")),
    };
    to_json(done)
}
