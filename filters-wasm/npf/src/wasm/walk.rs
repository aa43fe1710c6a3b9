//! The rules whose bits are left, one by one: what `Found` and `Walk::rules` of [`crate::plan::decide`] do, less what the
//! rules of a family make no use of.

use super::{
    Calls, Places,
    body::{Body, Label, Local, at},
    uses::Uses,
};
use crate::plan::{
    Space,
    decide::{
        DYNAMIC, FINAL, LIMITED, NONE, RECORD, RECORD_CHECK, RECORD_FLAGS, RECORD_RULE, RECORD_SEGMENT_END,
        RECORD_UNIT, RECORD_UNIT_END,
    },
};

/// Bytes of a record.
const RECORD_SIZE: u32 = RECORD * 4;

/// A decision that is being made.
pub(super) struct Walk<'a> {
    uses: &'a Uses,
    calls: &'a Calls,
    /// Where the records are.
    records: u64,
    /// Where the image's narrow words are.
    narrow: u64,
    facts: Local,
    packet: Local,
    /// The number behind the last rule that matched and stops nothing; 0 for none.
    behind_last: Local,
    /// The first final rule or dynamic ruleset that matched; NONE for none. What follows is of the latter.
    unit: Local,
    unit_end: Local,
    unit_final: Local,
    unit_last: Local,
    /// The position behind the segment in which something may have been found.
    segment_end: Local,
}

/// What is known of a rule that is looked at.
struct Rule {
    /// Where its record is, in bytes from the first one on.
    record: Local,
    number: Local,
    flags: Option<Local>,
}

impl<'a> Walk<'a> {
    /// Nothing is found yet.
    pub fn new(
        b: &mut Body,
        space: &Space,
        places: &Places<'_>,
        uses: &'a Uses,
        calls: &'a Calls,
        (facts, packet): (Local, Local),
    ) -> Walk<'a> {
        Walk {
            uses,
            calls,
            records: places.narrow(space.records),
            narrow: places.narrow(0),
            facts,
            packet,
            behind_last: b.constant(0),
            unit: b.constant(NONE),
            unit_end: b.constant(NONE),
            unit_final: b.constant(NONE),
            unit_last: b.constant(NONE),
            segment_end: b.constant(0),
        }
    }

    /// Pushes the rule that was found, or NONE.
    pub fn found(&self, b: &mut Body) {
        let last = |b: &mut Body| _ = b.ops().local_get(self.behind_last.0).i32_const(1).i32_sub();
        if !self.uses.finals && !self.uses.dynamic {
            return last(b);
        }
        if self.uses.dynamic {
            b.ops().local_get(self.unit_final.0).local_get(self.unit_last.0);
            b.ops().local_get(self.unit_final.0).i32_const(NONE as i32).i32_ne().select();
        } else {
            b.ops().local_get(self.unit.0);
        }
        if self.uses.plains {
            last(b);
            b.ops().local_get(self.unit.0).i32_const(NONE as i32).i32_ne().select();
        }
    }

    /// Leaves when something is found, and the word that begins at a position is behind its segment. Without barriers there
    /// is nothing behind.
    pub fn leave_behind_segment(&self, b: &mut Body, position: impl FnOnce(&mut Body), decided: Label) {
        if self.uses.segments {
            self.found(b);
            b.ops().i32_const(NONE as i32).i32_ne();
            position(b);
            b.ops().local_get(self.segment_end.0).i32_ge_u().i32_and();
            b.leave_if(decided);
        }
    }

    /// Looks at the rules whose bits are left of the word that begins at a position.
    pub fn rules(&self, b: &mut Body, position: Option<Local>, bits: Local, decided: Label) {
        b.repeat(u64::BITS + 1, |b, rules| {
            b.ops().local_get(bits.0).i64_eqz();
            b.leave_if(rules.done);
            b.ops().local_get(bits.0).i64_ctz().i32_wrap_i64();
            if let Some(position) = position {
                b.ops().local_get(position.0).i32_add();
            }
            let position = b.keep();
            b.ops().local_get(bits.0).local_get(bits.0).i64_const(1).i64_sub().i64_and().local_set(bits.0);
            b.ops().local_get(position.0).i32_const(RECORD_SIZE as i32).i32_mul();
            let record = b.keep();
            if self.uses.segments {
                self.segment(b, position, record, decided);
            }
            let number = self.field(b, record, RECORD_RULE);
            let kinds = u32::from(self.uses.finals) + u32::from(self.uses.plains) + u32::from(self.uses.dynamic);
            let alike = kinds == 1 && !self.uses.dynamic && !self.uses.limited;
            let flags = (!alike).then(|| self.field(b, record, RECORD_FLAGS));
            let rule = Rule { record, number, flags };
            if self.uses.dynamic {
                self.rule_of_any_kind(b, &rule, rules.next);
            } else if self.uses.checks || self.uses.limited {
                self.skip(b, &rule, rules.next);
                self.ask(b, &rule, rules.next);
                self.take(b, &rule);
            } else {
                // Nothing is asked, so nothing is gained by not taking what is settled.
                self.take(b, &rule);
            }
        });
    }

    fn field(&self, b: &mut Body, record: Local, field: u32) -> Local {
        b.ops().local_get(record.0).i32_load(at(self.records + u64::from(field) * 4));
        b.keep()
    }

    fn segment(&self, b: &mut Body, position: Local, record: Local, decided: Label) {
        b.ops().local_get(position.0).local_get(self.segment_end.0).i32_ge_u();
        b.when(|b| {
            self.found(b);
            b.ops().i32_const(NONE as i32).i32_ne();
            b.leave_if(decided);
            let end = self.field(b, record, RECORD_SEGMENT_END);
            b.ops().local_get(end.0).local_set(self.segment_end.0);
        });
    }

    /// Pushes whether one of some flags is set. Where all rules are alike, no flags were read.
    fn is(&self, b: &mut Body, rule: &Rule, flag: u32) {
        match rule.flags {
            Some(flags) => _ = b.ops().local_get(flags.0).i32_const(flag as i32).i32_and(),
            None => _ = b.ops().i32_const((self.uses.finals && flag & FINAL != 0).into()),
        }
    }

    /// Goes on when it cannot matter whether the rule matches; of rules with limits, when the walk would not reach it. No
    /// rule is in a dynamic ruleset, so a final one is a unit by itself.
    fn skip(&self, b: &mut Body, rule: &Rule, next: Label) {
        let Uses { finals, plains, limited, .. } = *self.uses;
        // A rule behind the first final one that matched is not looked at, whatever it is.
        if finals {
            b.ops().local_get(rule.number.0).local_get(self.unit.0).i32_gt_u();
            b.leave_if(next);
        }
        if !plains {
            return;
        }
        // A plain one neither where a final one was found, nor before the last that matched.
        b.ops().local_get(rule.number.0).local_get(self.behind_last.0).i32_lt_u();
        if finals {
            b.ops().local_get(self.unit.0).i32_const(NONE as i32).i32_ne().i32_or();
        }
        if finals || limited {
            self.is(b, rule, FINAL | LIMITED);
            b.ops().i32_eqz().i32_and();
        }
        b.leave_if(next);
    }

    /// Goes on when a check does not hold or a limit is exceeded.
    fn ask(&self, b: &mut Body, rule: &Rule, next: Label) {
        if let Some(holds) = self.calls.holds {
            let check = self.field(b, rule.record, RECORD_CHECK);
            b.ops().local_get(check.0);
            b.when(|b| {
                b.ops().local_get(self.facts.0).local_get(self.packet.0);
                b.ops().local_get(check.0).i32_const(2).i32_shl().i32_const(self.narrow as i32).i32_add();
                b.ops().call(holds).i32_eqz();
                b.leave_if(next);
            });
        }
        if let Some(within) = self.calls.within.filter(|_| self.uses.limited) {
            self.is(b, rule, LIMITED);
            b.when(|b| {
                b.ops().local_get(self.packet.0).local_get(rule.number.0).call(within).i32_eqz();
                b.leave_if(next);
            });
        }
    }

    /// A rule matches, and none is in a dynamic ruleset.
    fn take(&self, b: &mut Body, rule: &Rule) {
        let Uses { finals, plains, .. } = *self.uses;
        if finals {
            // The smallest; a plain one counts as NONE.
            b.ops().local_get(rule.number.0);
            if plains {
                b.ops().i32_const(NONE as i32);
                self.is(b, rule, FINAL);
                b.ops().select();
            }
            let number = b.keep();
            self.less(b, number, self.unit);
        }
        if plains {
            // The number behind the largest; a final one counts as 0.
            b.ops().local_get(rule.number.0).i32_const(1).i32_add();
            if finals {
                let behind = b.keep();
                b.ops().i32_const(0).local_get(behind.0);
                self.is(b, rule, FINAL);
                b.ops().select();
            }
            let behind = b.keep();
            self.more(b, behind, self.behind_last);
        }
    }

    /// `kept` becomes the smaller one.
    fn less(&self, b: &mut Body, new: Local, kept: Local) {
        b.ops().local_get(new.0).local_get(kept.0).local_get(new.0).local_get(kept.0).i32_lt_u().select();
        b.ops().local_set(kept.0);
    }

    /// `kept` becomes the larger one.
    fn more(&self, b: &mut Body, new: Local, kept: Local) {
        b.ops().local_get(new.0).local_get(kept.0).local_get(new.0).local_get(kept.0).i32_gt_u().select();
        b.ops().local_set(kept.0);
    }

    /// A rule where some are in dynamic rulesets, which are final as a whole.
    fn rule_of_any_kind(&self, b: &mut Body, rule: &Rule, next: Label) {
        let Walk { unit, unit_end, unit_final, unit_last, behind_last, .. } = *self;
        let of = self.field(b, rule.record, RECORD_UNIT);
        let number = rule.number;
        let is_none = |b: &mut Body, local: Local| _ = b.ops().local_get(local.0).i32_const(NONE as i32).i32_eq();
        self.is(b, rule, LIMITED);
        b.either(
            |b| {
                // stop(): the end of the ruleset, or the final rule in it, or the final rule itself.
                b.ops().local_get(number.0).local_get(unit_end.0).local_get(unit_final.0);
                is_none(b, unit_final);
                b.ops().select().i32_ge_u();
                b.leave_if(next);
            },
            |b| {
                self.is(b, rule, FINAL | DYNAMIC);
                b.either(
                    |b| {
                        b.ops().local_get(of.0).local_get(unit.0).i32_gt_u();
                        b.ops().local_get(of.0).local_get(unit.0).i32_eq();
                        b.ops().local_get(number.0).local_get(unit_final.0).i32_gt_u().i32_and().i32_or();
                        b.leave_if(next);
                    },
                    |b| {
                        is_none(b, unit);
                        b.ops().i32_eqz().local_get(number.0).local_get(behind_last.0).i32_lt_u().i32_or();
                        b.leave_if(next);
                    },
                );
            },
        );
        self.ask(b, rule, next);
        self.is(b, rule, FINAL | DYNAMIC);
        b.either(
            |b| {
                b.ops().local_get(of.0).local_get(unit.0).i32_lt_u();
                b.when(|b| {
                    let end = self.field(b, rule.record, RECORD_UNIT_END);
                    b.ops().local_get(of.0).local_set(unit.0).local_get(end.0).local_set(unit_end.0);
                    b.ops().i32_const(NONE as i32).local_set(unit_final.0).local_get(number.0).local_set(unit_last.0);
                });
                b.ops().local_get(of.0).local_get(unit.0).i32_eq();
                b.when(|b| {
                    self.more(b, number, unit_last);
                    self.is(b, rule, FINAL);
                    b.when(|b| self.less(b, number, unit_final));
                });
            },
            |b| {
                b.ops().local_get(number.0).i32_const(1).i32_add();
                let behind = b.keep();
                self.more(b, behind, behind_last);
            },
        );
    }
}
