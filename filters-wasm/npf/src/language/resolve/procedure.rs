//! Procedures.

use super::{MAX_PROCEDURES, Resolver, values, values::Wrong};
use crate::{
    config::{Call, Normalize, Procedure, RndBlock},
    language::{
        ast::{CallDecl, Element, ElementKind, ProcedureDecl},
        source::{Span, did_you_mean, quote},
    },
};
use std::rc::Rc;

/// An option of a call, with its name put in.
struct Setting {
    key: String,
    at: Span,
    value: Option<Rc<Element>>,
}

impl Resolver<'_, '_> {
    pub(super) fn procedure(&mut self, decl: ProcedureDecl) -> Option<Procedure> {
        let name = self.chosen(&decl.name, "procedure")?;
        if self.config.procedures.iter().any(|p| p.name == name) {
            self.session.error(decl.name.span, format!("there is a procedure {} already", quote(&name)));
            return None;
        }
        if self.config.procedures.len() >= MAX_PROCEDURES {
            self.session.error(decl.name.span, format!("there are more than {MAX_PROCEDURES} procedures"));
            return None;
        }
        // What is wrong in a call is reported; the procedure keeps its number.
        let calls = decl.calls.iter().filter_map(|call| self.call(call)).collect();
        Some(Procedure { name, calls, at: self.session.sources.place(decl.span) })
    }

    fn call(&mut self, decl: &CallDecl) -> Option<Call> {
        let options = self.options(decl)?;
        let at = decl.name.span;
        match &*decl.name.text {
            "log" => self.log(&options, at),
            "normalize" => self.normalize(&options),
            "rndblock" => self.rndblock(&options, at),
            "ratelimit" => self.ratelimit(&options, at),
            "route" => {
                let value = self.only_option(&options, "route", "route-interface", at)?;
                Some(Call::Route { interface: self.interface(&value)? })
            }
            "wasm" => {
                let value = self.only_option(&options, "wasm", "module", at)?;
                let module = self.scalar(&value, "name of a module", |word| match word {
                    "" => Err(Wrong::new("the name of the module is empty")),
                    word => Ok(word.to_owned()),
                })?;
                Some(Call::Wasm { module })
            }
            other => {
                let all = ["log", "normalize", "rndblock", "ratelimit", "route", "wasm"];
                let hint = did_you_mean(other, all).unwrap_or_else(|| format!("there are {}", all.join(", ")));
                self.session.error_hint(at, format!("there is no extension {}", quote(other)), hint);
                None
            }
        }
    }

    fn options(&mut self, decl: &CallDecl) -> Option<Vec<Setting>> {
        let mut options: Vec<Setting> = Vec::new();
        for (key, value) in &decl.options {
            let name = self.scalar(key, "option", |word| Ok(word.to_owned()))?;
            if options.iter().any(|o| o.key == name) {
                self.session.error(key.span, format!("the option {} stands here twice", quote(&name)));
                return None;
            }
            options.push(Setting { key: name, at: key.span, value: value.clone() });
        }
        Some(options)
    }

    fn unknown_option(&mut self, option: &Setting, call: &str, known: &[&str]) -> Option<Call> {
        let hint =
            did_you_mean(&option.key, known.iter().copied()).unwrap_or_else(|| format!("it has {}", known.join(", ")));
        self.session.error_hint(option.at, format!("{call} has no option {}", quote(&option.key)), hint);
        None
    }

    /// The value that an option must have.
    fn value(&mut self, option: &Setting) -> Option<Rc<Element>> {
        if option.value.is_none() {
            self.session.error(option.at, format!("the option {} needs a value", quote(&option.key)));
        }
        option.value.clone()
    }

    fn no_value(&mut self, option: &Setting) -> Option<()> {
        match &option.value {
            Some(value) => {
                self.session.error(value.span, format!("the option {} has no value", quote(&option.key)));
                None
            }
            None => Some(()),
        }
    }

    /// The value of a call's only option.
    fn only_option(&mut self, options: &[Setting], call: &str, key: &str, at: Span) -> Option<Rc<Element>> {
        match options {
            [only] if only.key == key => self.value(only),
            _ => {
                if let Some(other) = options.iter().find(|o| o.key != key) {
                    self.unknown_option(other, call, &[key]);
                } else {
                    self.session.error_hint(
                        at,
                        format!("{call} needs the option \"{key}\""),
                        format!("write: {call}: \"{key}\" NAME"),
                    );
                }
                None
            }
        }
    }

    fn log(&mut self, options: &[Setting], at: Span) -> Option<Call> {
        match options {
            [Setting { value: None, key, at, .. }] => {
                let name = Rc::new(Element { kind: ElementKind::Word(key.clone()), span: *at });
                Some(Call::Log { interface: self.interface(&name)? })
            }
            _ => {
                self.session.error_hint(at, "log needs the name of one log", "write: log: npflog0");
                None
            }
        }
    }

    fn normalize(&mut self, options: &[Setting]) -> Option<Call> {
        let mut normalize = Normalize::default();
        for option in options {
            match &*option.key {
                "random-id" => normalize.random_id = self.no_value(option).is_some(),
                "no-df" => normalize.no_df = self.no_value(option).is_some(),
                "min-ttl" => {
                    let value = self.value(option)?;
                    normalize.min_ttl = self.number(&value, "lowest TTL", 0, 255)? as u8;
                }
                "max-mss" => {
                    let value = self.value(option)?;
                    normalize.max_mss = self.number(&value, "maximal segment size", 0, 65535)? as u16;
                }
                _ => return self.unknown_option(option, "normalize", &["random-id", "no-df", "min-ttl", "max-mss"]),
            }
        }
        Some(Call::Normalize(normalize))
    }

    fn rndblock(&mut self, options: &[Setting], at: Span) -> Option<Call> {
        let [option] = options else {
            let hint = "write: rndblock: \"percentage\" 50, or rndblock: \"mod\" 2";
            self.session.error_hint(at, "rndblock needs one of its options", hint);
            return None;
        };
        let block = match &*option.key {
            "percentage" => {
                let value = self.value(option)?;
                RndBlock::Percentage(self.scalar(&value, "percentage", |word| {
                    let wrong = || Wrong::hint(format!("{} is no percentage", quote(word)), "it goes from 0 to 100");
                    values::float(word).filter(|f| (0.0..=100.0).contains(f)).ok_or_else(wrong)
                })?)
            }
            "mod" => {
                let value = self.value(option)?;
                RndBlock::Mod(self.number(&value, "number", 1, u64::from(u32::MAX))? as u32)
            }
            _ => return self.unknown_option(option, "rndblock", &["percentage", "mod"]),
        };
        Some(Call::RndBlock(block))
    }

    fn ratelimit(&mut self, options: &[Setting], at: Span) -> Option<Call> {
        let (mut bitrate, mut normal, mut extended) = (None, None, None);
        for option in options {
            let slot = match &*option.key {
                "bitrate" => &mut bitrate,
                "normal-burst" => &mut normal,
                "extended-burst" => &mut extended,
                _ => return self.unknown_option(option, "ratelimit", &["bitrate", "normal-burst", "extended-burst"]),
            };
            let value = self.value(option)?;
            *slot = Some(self.scalar(&value, "number", |word| {
                let hint = "write digits, and k, m, g or t for thousands, such as 128k";
                values::scaled(word).ok_or_else(|| Wrong::hint(format!("{} is no number", quote(word)), hint))
            })?);
        }
        let Some(bitrate) = bitrate.filter(|&bits| bits > 0) else {
            self.session.error_hint(at, "ratelimit needs a bitrate above 0", "write: ratelimit: \"bitrate\" 10m");
            return None;
        };
        // What routers with a committed access rate take for granted: a second and a half, and twice that.
        let normal_burst = normal.unwrap_or(bitrate / 8 + bitrate / 16);
        let extended_burst = extended.unwrap_or(normal_burst.saturating_mul(2));
        Some(Call::RateLimit { bitrate, normal_burst, extended_burst })
    }
}
