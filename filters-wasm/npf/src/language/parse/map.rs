//! Maps.

use super::{Failed, Parse, Parser};
use crate::{
    config::{Arrow, MapAlgo},
    language::{
        ast::{MapDecl, MatchDecl, Statement},
        lex::Token,
    },
};

impl Parser<'_, '_> {
    /// A map, or a place for maps; `map` is next.
    pub(super) fn map(&mut self) -> Parse<Statement> {
        let span = self.advance().span;
        if self.take_word("ruleset").is_some() {
            return Ok(Statement::MapRuleset(self.ruleset(span)?));
        }
        let interface = self.interface()?;
        let (mut kind, mut algo, mut no_ports) = (None, None, false);
        let (mut endpoint_independent, mut hairpin) = (None, None);
        loop {
            let at = self.peek().span;
            match self.word() {
                "static" | "dynamic" if kind.is_some() => return Err(self.twice(at, "\"static\" or \"dynamic\"")),
                "static" | "dynamic" => kind = Some(self.name_here().text == "static"),
                "algo" if algo.is_some() => return Err(self.twice(at, "\"algo\"")),
                "algo" => {
                    self.advance();
                    let which = self.algo()?;
                    algo = Some((which, self.advance().span));
                }
                "no-ports" if no_ports => return Err(self.twice(at, "\"no-ports\"")),
                "no-ports" => {
                    self.advance();
                    no_ports = true;
                }
                "endpoint-independent" if endpoint_independent.is_some() => {
                    return Err(self.twice(at, "\"endpoint-independent\""));
                }
                "endpoint-independent" => endpoint_independent = Some(self.advance().span),
                "hairpin" if hairpin.is_some() => return Err(self.twice(at, "\"hairpin\"")),
                "hairpin" => hairpin = Some(self.advance().span),
                _ => break,
            }
        }
        let head = self.match_head()?;
        if head.family.is_some() {
            self.session.error_hint(
                head.span,
                "the family stands here too early",
                "write it behind: ... pass family F ...",
            );
            return Err(Failed);
        }
        let inner = self.segment()?;
        let arrow = match self.peek().token {
            Token::ArrowOut => Arrow::Out,
            Token::ArrowIn => Arrow::In,
            Token::ArrowBoth => Arrow::Both,
            _ => return Err(self.expected("\"->\", \"<-\" or \"<->\"", &[])),
        };
        self.advance();
        let outer = self.segment()?;
        let (filter, has_filter) = self.map_filter(head)?;
        let span = span.to(self.last());
        let is_static = kind.unwrap_or(false);
        Ok(Statement::Map(Box::new(MapDecl {
            interface,
            is_static,
            algo,
            no_ports,
            endpoint_independent,
            hairpin,
            arrow,
            inner,
            outer,
            filter,
            has_filter,
            span,
        })))
    }

    fn algo(&mut self) -> Parse<MapAlgo> {
        Ok(match self.word() {
            "netmap" => MapAlgo::Netmap,
            "ip-hash" => MapAlgo::IpHash,
            "round-robin" => MapAlgo::RoundRobin,
            "npt66" => MapAlgo::Npt66,
            _ => {
                let all = ["netmap", "ip-hash", "round-robin", "npt66"];
                return Err(self.expected("netmap, ip-hash, round-robin or npt66", &all));
            }
        })
    }

    /// `pass ...` behind a map.
    fn map_filter(&mut self, head: MatchDecl) -> Parse<(MatchDecl, bool)> {
        let Some(at) = self.take_word("pass") else { return Ok((head, false)) };
        if !head.protos.is_empty() {
            let hint = "write the protocol behind \"pass\"";
            self.session.error_hint(at, "a map has either a protocol before its addresses or a filter", hint);
            return Err(Failed);
        }
        let mut filter = self.match_head()?;
        self.match_ends(&mut filter, "all, from or to")?;
        Ok((filter, true))
    }
}
