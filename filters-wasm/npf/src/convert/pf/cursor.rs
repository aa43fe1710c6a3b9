//! The pieces of a statement, one after the other.

use super::lex::Token;

/// What is read, or why it cannot be.
pub(super) type Read<T> = Result<T, String>;

/// Pieces that are still to be read.
pub(super) struct Cursor<'t> {
    tokens: &'t [Token],
    at: usize,
}

impl<'t> Cursor<'t> {
    pub fn new(tokens: &'t [Token]) -> Cursor<'t> {
        Cursor { tokens, at: 0 }
    }

    pub fn peek(&self) -> Option<&'t Token> {
        self.tokens.get(self.at)
    }

    pub fn next(&mut self) -> Option<&'t Token> {
        let token = self.tokens.get(self.at)?;
        self.at += 1;
        Some(token)
    }

    pub fn at_end(&self) -> bool {
        self.at >= self.tokens.len()
    }

    /// The word that comes next; empty when there is none.
    pub fn word(&self) -> &'t str {
        match self.peek() {
            Some(Token::Word(word)) => word,
            _ => "",
        }
    }

    pub fn take_word(&mut self, word: &str) -> bool {
        let is = self.word() == word;
        self.at += usize::from(is);
        is
    }

    pub fn take(&mut self, mark: &str) -> bool {
        let is = matches!(self.peek(), Some(Token::Mark(m)) if *m == mark);
        self.at += usize::from(is);
        is
    }

    /// A word, or something in quotation marks.
    pub fn text(&mut self, what: &str) -> Read<&'t str> {
        match self.next() {
            Some(Token::Word(text) | Token::Text(text)) => Ok(text),
            _ => Err(format!("{what} is missing")),
        }
    }

    /// One, or several within braces; those within inner braces are of the same list.
    pub fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        if !self.take("{") {
            return Ok(vec![item(self)?]);
        }
        let (mut items, mut depth) = (Vec::new(), 1);
        while depth > 0 {
            if self.at_end() {
                return Err("a brace is not closed".to_owned());
            }
            if self.take("{") {
                depth += 1;
            } else if self.take("}") {
                depth -= 1;
            } else if !self.take(",") {
                items.push(item(self)?);
            }
        }
        Ok(items)
    }

    /// Goes behind what stands in round brackets, if anything does. What it was.
    pub fn skip_round(&mut self) -> Option<String> {
        if !self.take("(") {
            return None;
        }
        let mut words = Vec::new();
        let mut depth = 1;
        while let Some(token) = self.next() {
            match token {
                Token::Mark("(") => depth += 1,
                Token::Mark(")") => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                break;
            }
            words.push(match token {
                Token::Word(text) | Token::Text(text) => text.as_str(),
                Token::Mark(mark) => mark,
            });
        }
        Some(words.join(" "))
    }
}
