//! DNS messages (RFC 1035): header, questions and names.

use super::be16;

/// Most questions that are read of one message. Resolvers ask one (RFC 9619).
const QUESTIONS: u16 = 8;

/// A DNS message.
#[derive(Clone, Copy, Debug)]
pub struct Dns<'a> {
    head: &'a [u8; 12],
    bytes: &'a [u8],
}

/// Why a message is not to be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsError {
    /// It ends too early, or is longer than the window.
    Cut,
    /// A label has a length that is reserved, or a pointer does not point back.
    Label,
    /// A name is longer than 255 bytes.
    Long,
    /// A label has a dot or a byte 0 in it, so that the name as a text would be another one's.
    Dot,
}

impl<'a> Dns<'a> {
    /// Reads the header of a message: the payload of a UDP packet.
    pub fn parse(bytes: &'a [u8]) -> Option<Dns<'a>> {
        Some(Dns { head: bytes.first_chunk::<12>()?, bytes })
    }

    /// Identification.
    pub fn id(&self) -> u16 {
        be16(self.head, 0).unwrap_or(0)
    }

    /// Whether it asks, and does not answer.
    pub fn is_query(&self) -> bool {
        self.head[2] & 0x80 == 0
    }

    /// What is asked: 0 is a standard query.
    pub fn opcode(&self) -> u8 {
        self.head[2] >> 3 & 15
    }

    /// Response code.
    pub fn rcode(&self) -> u8 {
        self.head[3] & 15
    }

    /// How many questions the header announces.
    pub fn question_count(&self) -> u16 {
        be16(self.head, 4).unwrap_or(0)
    }

    /// The questions, at most 8; an error ends them.
    pub fn questions(&self) -> Questions<'a> {
        Questions { bytes: self.bytes, at: 12, left: self.question_count().min(QUESTIONS) }
    }
}

/// A question.
#[derive(Clone, Debug)]
pub struct Question {
    /// The name that is asked for.
    pub name: Name,
    /// Type: 1 is A, 28 is AAAA, 255 is ANY.
    pub kind: u16,
    /// Class: 1 is IN.
    pub class: u16,
}

/// The questions of a message, one after the other.
#[derive(Clone, Debug)]
pub struct Questions<'a> {
    bytes: &'a [u8],
    at: usize,
    left: u16,
}

impl Iterator for Questions<'_> {
    type Item = Result<Question, DnsError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let question = self.question();
        if question.is_err() {
            self.left = 0;
        }
        Some(question)
    }
}

impl Questions<'_> {
    fn question(&mut self) -> Result<Question, DnsError> {
        let (name, at) = Name::parse(self.bytes, self.at)?;
        let kind = be16(self.bytes, at).ok_or(DnsError::Cut)?;
        let class = be16(self.bytes, at + 2).ok_or(DnsError::Cut)?;
        self.at = at + 4;
        Ok(Question { name, kind, class })
    }
}

/// A name as a text in lower case, without the dot at its end: `www.example.org`. The root is the empty text.
#[derive(Clone)]
pub struct Name {
    text: [u8; 255],
    len: u8,
    labels: u8,
}

impl Name {
    /// Reads the name that stands at `at` of a message, following pointers (RFC 1035, section 4.1.4), which must each point
    /// further back than the last one. Returns it with the place behind it.
    pub fn parse(message: &[u8], at: usize) -> Result<(Name, usize), DnsError> {
        let mut name = Name { text: [0; 255], len: 0, labels: 0 };
        let (mut at, mut limit, mut end) = (at, at, None);
        // Labels cost at least a byte of the text, pointers go back: this ends.
        loop {
            let len = usize::from(*message.get(at).ok_or(DnsError::Cut)?);
            match len {
                0 => return Ok((name, end.unwrap_or(at + 1))),
                1..=63 => {
                    let label = message.get(at + 1..at + 1 + len).ok_or(DnsError::Cut)?;
                    name.push(label)?;
                    at += 1 + len;
                }
                0xc0.. => {
                    let low = *message.get(at + 1).ok_or(DnsError::Cut)?;
                    let target = (len & 0x3f) << 8 | usize::from(low);
                    end = end.or(Some(at + 2));
                    // The first pointer must point before the name, each further one before what the last one pointed to.
                    if target >= limit || target < 12 {
                        return Err(DnsError::Label);
                    }
                    (at, limit) = (target, target);
                }
                _ => return Err(DnsError::Label),
            }
        }
    }

    fn push(&mut self, label: &[u8]) -> Result<(), DnsError> {
        let dot = usize::from(self.labels > 0);
        let start = usize::from(self.len) + dot;
        // On the wire: a length before each label and the root's 0 at the end, in 255 bytes; as a text two less.
        let end = start + label.len();
        if end > 253 {
            return Err(DnsError::Long);
        }
        if dot == 1 {
            self.text[start - 1] = b'.';
        }
        for (to, byte) in self.text[start..end].iter_mut().zip(label) {
            if matches!(byte, b'.' | 0) {
                return Err(DnsError::Dot);
            }
            *to = byte.to_ascii_lowercase();
        }
        (self.len, self.labels) = (end as u8, self.labels + 1);
        Ok(())
    }

    /// The text. Bytes that are no ASCII stand in it as they came.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..usize::from(self.len)]
    }

    /// How many labels it has.
    pub fn labels(&self) -> usize {
        usize::from(self.labels)
    }

    /// The name and its parents, the shortest first, at most `most`: `org`, `example.org`, `www.example.org`.
    pub fn suffixes(&self, most: usize) -> impl Iterator<Item = &[u8]> {
        let text = self.as_bytes();
        let mut end = (!text.is_empty()).then_some(text.len());
        let next = move || {
            let upto = end?;
            let dot = text[..upto].iter().rposition(|b| *b == b'.');
            end = dot;
            Some(&text[dot.map_or(0, |d| d + 1)..])
        };
        core::iter::from_fn(next).take(most)
    }
}

impl core::fmt::Debug for Name {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}", self.as_bytes().escape_ascii())
    }
}
