//! The grammar of a configuration file: parses text to a tree of values, with variables and
//! includes resolved.
//!
//! Accepts what nats-server accepts and refuses what it refuses, in the same words. As in
//! nats-server, keys wait on a stack until their value is complete; that is why a key without a
//! value, or with a number whose unit is malformed, shifts the values of others.

use std::cell::{Cell, RefCell};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use crate::base::limits::{
    CONFIG_BYTES_MAX, CONFIG_DEPTH_MAX, CONFIG_INCLUDE_DEPTH_MAX, CONFIG_TEXTS_MAX,
};
use crate::config::literals::{float, included_path, integer, time};
use crate::config::scanner::{
    END, Found, Scalar, Scanner, Stop, is_blank, is_key_separator, is_newline, shown,
};
use crate::config::surroundings::{Surroundings, file_error_text};
use crate::config::value::{Data, Map, Value};

/// A bare value that begins like this is a bcrypt hash, not a variable.
const BCRYPT_PREFIX: &[u8] = b"2a$";

/// The key under which an environment variable's text is parsed.
const ENVIRONMENT_KEY: &[u8] = b"pk";

/// Reads a file and everything it includes.
///
/// # Errors
/// The text says what is wrong, in nats-server's words.
pub(crate) fn parse_file(path: &Path, surroundings: &dyn Surroundings) -> Result<Map, String> {
    let map = parse_file_at(path, surroundings, &Read::default(), 0)?;
    if map.is_larger_than(CONFIG_BYTES_MAX) {
        // A variable may stand for values that have variables.
        return Err(format!("configuration has more than {CONFIG_BYTES_MAX} bytes of values"));
    }
    Ok(map)
}

fn parse_file_at(
    path: &Path,
    surroundings: &dyn Surroundings,
    read: &Read,
    include_depth: usize,
) -> Result<Map, String> {
    let text = surroundings.read_file(path).map_err(|error| file_error_text(path, &error))?;
    read.count(text.len())?;
    Parser::new(&text, path, surroundings, read, include_depth).parse()
}

/// The texts read for one configuration: files, and environment variables, each as often as it is
/// named.
#[derive(Default)]
struct Read {
    texts: Cell<usize>,
    bytes: Cell<usize>,
    /// Names of the environment variables being read, to detect cycles.
    references: RefCell<Vec<Vec<u8>>>,
}

impl Read {
    /// Counts a text that was read.
    ///
    /// # Errors
    /// If it is one too many, or has too many bytes with all others.
    fn count(&self, bytes: usize) -> Result<(), String> {
        self.texts.set(self.texts.get() + 1);
        self.bytes.set(self.bytes.get() + bytes);
        if self.texts.get() > CONFIG_TEXTS_MAX {
            return Err(format!("configuration includes more than {CONFIG_TEXTS_MAX} files"));
        }
        if self.bytes.get() > CONFIG_BYTES_MAX {
            return Err(format!(
                "configuration has more than {CONFIG_BYTES_MAX} bytes in all files"
            ));
        }
        Ok(())
    }
}

/// The list or map that is being filled.
enum Context {
    Map(Map),
    List(Vec<Value>),
}

struct Key {
    name: Vec<u8>,
    line: usize,
    column: usize,
}

/// A value with its place, before it is added to a list or map.
struct Item {
    data: Rc<Data>,
    line: usize,
    column: usize,
}

struct Parser<'a> {
    scanner: Scanner<'a>,
    file: Rc<Path>,
    surroundings: &'a dyn Surroundings,
    contexts: Vec<Context>,
    keys: Vec<Key>,
    /// Set while this key was the last thing read: the text must not end there.
    last_key: Option<Vec<u8>>,
    read: &'a Read,
    include_depth: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn new(
        text: &'a [u8],
        file: &Path,
        surroundings: &'a dyn Surroundings,
        read: &'a Read,
        include_depth: usize,
    ) -> Self {
        Parser {
            scanner: Scanner::new(text),
            file: Rc::from(file),
            surroundings,
            contexts: vec![Context::Map(Map::default())],
            keys: Vec::new(),
            last_key: None,
            read,
            include_depth,
            depth: 0,
        }
    }

    fn parse(mut self) -> Result<Map, String> {
        match self.top_level() {
            Err(Stop::Error(reason)) => return Err(reason),
            Err(Stop::End) if self.last_key.as_deref().is_some_and(|key| key != b"}") => {
                let position = self.scanner.position();
                let (line, column) = (self.scanner.line(position), self.scanner.column(position));
                let file = self.file.display();
                return Err(format!("config is invalid ({file}:{line}:{column})"));
            }
            Ok(()) | Err(Stop::End) => {}
        }
        // Text that ends inside a list or a map keeps what was complete.
        match self.contexts.into_iter().next() {
            Some(Context::Map(map)) => Ok(map),
            _ => Ok(Map::default()),
        }
    }

    /// Never returns `Ok`: it stops when the text ends.
    fn top_level(&mut self) -> Result<(), Stop> {
        loop {
            if self.skip_to_key(|parser| parser.block())? {
                self.key_and_value()?;
                self.end_of_top_value()?;
            }
        }
    }

    /// Skips white space and comments; true if a key begins. `on_brace` reads what follows a `{`.
    fn skip_to_key(
        &mut self,
        on_brace: impl FnOnce(&mut Self) -> Result<(), Stop>,
    ) -> Result<bool, Stop> {
        loop {
            let at_end = self.scanner.is_at_end();
            match self.scanner.peek() {
                END if at_end => return Err(Stop::End),
                END => {
                    self.scanner.next();
                    return self.scanner.error("Unexpected EOF.");
                }
                '{' => {
                    self.scanner.next();
                    on_brace(self)?;
                    return Ok(false);
                }
                '#' => {
                    self.scanner.next();
                    self.comment();
                }
                '/' => {
                    self.scanner.next();
                    if !self.scanner.next_is('/') {
                        return self.scanner.error("Unexpected EOF.");
                    }
                    self.comment();
                }
                space if space.is_whitespace() => {
                    self.scanner.next();
                }
                _ => return Ok(true),
            }
        }
    }

    fn comment(&mut self) {
        self.scanner.comment();
        self.last_key = None;
    }

    /// Called after one `/`: skips a comment, and returns true, if another follows.
    fn comment_behind_slash(&mut self) -> bool {
        let is_comment = self.scanner.next_is('/');
        if is_comment {
            self.comment();
        }
        is_comment
    }

    fn end_of_top_value(&mut self) -> Result<(), Stop> {
        loop {
            match self.scanner.next() {
                '#' => {
                    self.comment();
                    return Ok(());
                }
                '/' => {
                    if self.comment_behind_slash() {
                        return Ok(());
                    }
                }
                blank if is_blank(blank) => {}
                END | ';' | ',' | '}' => return Ok(()),
                newline if is_newline(newline) => return Ok(()),
                other => {
                    return self.scanner.error(format!(
                        "Expected a top-level value to end with a new line, comment or EOF, \
                         but got '{}' instead.",
                        shown(other)
                    ));
                }
            }
        }
    }

    /// Reads braces around top-level keys; the opening brace has been taken.
    fn block(&mut self) -> Result<(), Stop> {
        self.deeper()?;
        'keys: loop {
            if self.scanner.next_is('}') {
                break;
            }
            if self.block_step()? {
                continue;
            }
            // After a value: the closing brace, or another key after a separator or a comment.
            loop {
                match self.scanner.next() {
                    '#' => {
                        self.comment();
                        continue 'keys;
                    }
                    '/' => {
                        if self.comment_behind_slash() {
                            continue 'keys;
                        }
                    }
                    space if is_newline(space) || is_blank(space) => {}
                    ';' | ',' => continue 'keys,
                    '}' => break 'keys,
                    other => {
                        return self.scanner.error(format!(
                            "Expected a block-level to end with a '}}', but got '{}' instead.",
                            shown(other)
                        ));
                    }
                }
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads one key of a block, or a block in it. True if another key may follow at once.
    fn block_step(&mut self) -> Result<bool, Stop> {
        // White space is skipped one by one, since the closing brace may follow.
        let next = self.scanner.peek();
        if next.is_whitespace() {
            self.scanner.next();
            return Ok(true);
        }
        if next == '#' {
            self.scanner.next();
            self.comment();
            return Ok(true);
        }
        if next == '/' {
            self.scanner.next();
            if !self.comment_behind_slash() {
                return self.scanner.error("Unexpected EOF.");
            }
            return Ok(true);
        }
        if !self.skip_to_key(|parser| parser.block())? {
            return Ok(false);
        }
        self.key_and_value()?;
        self.end_of_block_value()
    }

    /// Returns true if another key may follow, false if the block ended.
    fn end_of_block_value(&mut self) -> Result<bool, Stop> {
        loop {
            if self.scanner.peek() == '}' {
                return Ok(false);
            }
            match self.scanner.next() {
                '#' => self.comment(),
                '/' => {
                    self.comment_behind_slash();
                }
                blank if is_blank(blank) => {}
                ';' | ',' => return Ok(true),
                newline if is_newline(newline) => return Ok(true),
                other => {
                    return self.scanner.error(format!(
                        "Expected a block-level value to end with a new line, comment or EOF, \
                         but got '{}' instead.",
                        shown(other)
                    ));
                }
            }
        }
    }

    /// Reads a key outside of any map, and its value or, after `include`, the file.
    fn key_and_value(&mut self) -> Result<(), Stop> {
        let first = self.scanner.peek();
        if is_key_separator(first) {
            return self.scanner.error(format!("Unexpected key separator '{}'", shown(first)));
        }
        if first == '"' || first == '\'' {
            self.scanner.next();
            let start = self.scanner.position();
            self.skip_to_quote(first);
            if self.scanner.peek() == END {
                let nothing = self.scanner.position() == start;
                return if nothing {
                    Err(Stop::End)
                } else {
                    self.scanner.error("Unexpected EOF.")
                };
            }
            self.push_key(start);
            self.scanner.next();
        } else {
            let start = self.scanner.position();
            self.scanner.next();
            loop {
                let next = self.scanner.peek();
                if next.is_whitespace() {
                    if self.is_include(start) {
                        return self.include();
                    }
                    break;
                }
                if is_key_separator(next) || next == END {
                    break;
                }
                self.scanner.next();
            }
            self.push_key(start);
        }
        loop {
            match self.scanner.peek() {
                END => return Err(Stop::End),
                separator if is_key_separator(separator) => {
                    self.scanner.next();
                    break;
                }
                space if space.is_whitespace() => {
                    self.scanner.next();
                }
                _ => break,
            }
        }
        self.value()
    }

    fn skip_to_quote(&mut self, quote: char) {
        while self.scanner.peek() != quote && self.scanner.peek() != END {
            self.scanner.next();
        }
    }

    /// Takes the text from `start` to the current position as a key.
    fn push_key(&mut self, start: usize) {
        let end = self.scanner.position();
        let name = self.scanner.slice(start, end).to_vec();
        self.last_key = Some(name.clone());
        let (line, column) = (self.scanner.line(end), self.scanner.column(start));
        self.keys.push(Key { name, line, column });
    }

    fn is_include(&self, start: usize) -> bool {
        self.scanner.slice(start, self.scanner.position()).eq_ignore_ascii_case(b"include")
    }

    fn deeper(&mut self) -> Result<(), Stop> {
        self.depth += 1;
        if self.depth > CONFIG_DEPTH_MAX {
            return self.scanner.error(format!("Nested deeper than {CONFIG_DEPTH_MAX} levels"));
        }
        Ok(())
    }

    /// Reads a value and adds it where it belongs.
    fn value(&mut self) -> Result<(), Stop> {
        while is_blank(self.scanner.peek()) {
            self.scanner.next();
        }
        match self.scanner.peek() {
            '[' => {
                self.scanner.next();
                self.list()
            }
            '{' => {
                self.scanner.next();
                self.map()
            }
            _ => {
                let found = self.scanner.scalar()?;
                self.last_key = None;
                self.put_scalar(found)
            }
        }
    }

    fn list(&mut self) -> Result<(), Stop> {
        self.deeper()?;
        self.last_key = None;
        self.contexts.push(Context::List(Vec::new()));
        'values: loop {
            match self.scanner.peek() {
                '#' => {
                    self.scanner.next();
                    self.comment();
                    continue;
                }
                slash_or_comma @ ('/' | ',') => {
                    self.scanner.next();
                    if slash_or_comma == '/' && self.comment_behind_slash() {
                        continue;
                    }
                    return self.scanner.error("Unexpected array value terminator ','.");
                }
                ']' => {
                    self.scanner.next();
                    break;
                }
                space if space.is_whitespace() => {
                    self.scanner.next();
                    continue;
                }
                _ => self.value()?,
            }
            loop {
                match self.scanner.next() {
                    blank if is_blank(blank) => {}
                    '#' => self.comment(),
                    '/' => {
                        if !self.comment_behind_slash() {
                            continue 'values;
                        }
                    }
                    ',' => continue 'values,
                    newline if is_newline(newline) => continue 'values,
                    ']' => break 'values,
                    other => {
                        return self.scanner.error(format!(
                            "Expected an array value terminator \",\" or an array terminator \
                             \"]\", but got '{}' instead.",
                            shown(other)
                        ));
                    }
                }
            }
        }
        self.depth -= 1;
        self.close_context();
        Ok(())
    }

    fn map(&mut self) -> Result<(), Stop> {
        self.deeper()?;
        self.last_key = None;
        self.contexts.push(Context::Map(Map::default()));
        while self.map_key_and_value()? {
            if !self.end_of_map_value()? {
                break;
            }
        }
        self.depth -= 1;
        self.close_context();
        Ok(())
    }

    /// Reads a key and its value inside a map. False if the map ended instead.
    fn map_key_and_value(&mut self) -> Result<bool, Stop> {
        let start = loop {
            match self.scanner.peek() {
                END => return self.scanner.error("Unexpected EOF processing map."),
                separator if is_key_separator(separator) => {
                    let separator = shown(separator);
                    return self.scanner.error(format!("Unexpected key separator '{separator}'."));
                }
                ']' => return self.scanner.error("Unexpected array end ']' processing map."),
                '}' => {
                    self.scanner.next();
                    return Ok(false);
                }
                '#' => {
                    self.scanner.next();
                    self.comment();
                }
                '/' => {
                    self.scanner.next();
                    if !self.comment_behind_slash() {
                        // A lone slash is dropped, and what follows begins the key.
                        let start = self.scanner.position();
                        self.scanner.next();
                        break start;
                    }
                }
                quote @ ('\'' | '"') => return self.quoted_map_key_and_value(quote),
                space if space.is_whitespace() => {
                    self.scanner.next();
                }
                _ => {
                    let start = self.scanner.position();
                    self.scanner.next();
                    break start;
                }
            }
        };
        loop {
            let next = self.scanner.peek();
            if next == END {
                return self.scanner.error("Unexpected EOF processing map key.");
            }
            if next.is_whitespace() && self.is_include(start) {
                self.include()?;
                return Ok(true);
            }
            if next.is_whitespace() || is_key_separator(next) {
                break;
            }
            self.scanner.next();
        }
        self.push_key(start);
        self.map_value()
    }

    fn quoted_map_key_and_value(&mut self, quote: char) -> Result<bool, Stop> {
        self.scanner.next();
        let start = self.scanner.position();
        self.skip_to_quote(quote);
        if self.scanner.peek() == END {
            let kind = if quote == '"' { "double quoted" } else { "quoted" };
            return self.scanner.error(format!("Unexpected EOF processing {kind} map key."));
        }
        self.push_key(start);
        self.scanner.next();
        self.map_value()
    }

    /// Reads the separator and the value after a key. False if the map ends there.
    fn map_value(&mut self) -> Result<bool, Stop> {
        let mut separator_taken = false;
        loop {
            match self.scanner.peek() {
                space if space.is_whitespace() => {
                    self.scanner.next();
                }
                separator if is_key_separator(separator) && !separator_taken => {
                    self.scanner.next();
                    separator_taken = true;
                }
                ',' => {
                    self.scanner.next();
                    return self.scanner.error("Unexpected map value terminator \",\".");
                }
                '}' => {
                    self.scanner.next();
                    return Ok(false);
                }
                _ => break,
            }
        }
        self.value()?;
        Ok(true)
    }

    /// Returns true if another key may follow, false if the map ended.
    fn end_of_map_value(&mut self) -> Result<bool, Stop> {
        loop {
            match self.scanner.next() {
                blank if is_blank(blank) => {}
                '#' => self.comment(),
                '/' => {
                    if !self.comment_behind_slash() {
                        return Ok(true);
                    }
                }
                ';' | ',' => return Ok(true),
                newline if is_newline(newline) => return Ok(true),
                '}' => return Ok(false),
                other => {
                    return self.scanner.error(format!(
                        "Expected a map value terminator \",\" or a map terminator \"}}\", \
                         but got '{}' instead.",
                        shown(other)
                    ));
                }
            }
        }
    }

    /// Completes the list or map whose closing bracket was just taken.
    fn close_context(&mut self) {
        self.last_key = None;
        let data = match self.contexts.pop() {
            Some(Context::List(values)) => Data::List(values),
            Some(Context::Map(map)) => Data::Map(map),
            None => return,
        };
        let position = self.scanner.position();
        let (line, column) = (self.scanner.line(position), self.scanner.column(position));
        self.put(Item { data: Rc::new(data), line, column });
    }

    /// Gives a complete value to the last key, or appends it to the list.
    fn put(&mut self, item: Item) {
        let Item { data, mut line, mut column } = item;
        let file = Rc::clone(&self.file);
        match self.contexts.last_mut() {
            Some(Context::List(values)) => {
                let used_as_variable = Cell::new(false);
                values.push(Value { data, line, column, file, used_as_variable });
            }
            Some(Context::Map(map)) => {
                let Some(key) = self.keys.pop() else { return };
                (line, column) = (key.line, key.column);
                let used_as_variable = Cell::new(false);
                map.insert(key.name, Value { data, line, column, file, used_as_variable });
            }
            None => {}
        }
    }

    fn put_scalar(&mut self, found: Found<'a>) -> Result<(), Stop> {
        let Found { scalar, line, column } = found;
        let data = match scalar {
            Scalar::Text(text) => Data::Text(text),
            Scalar::Toggle(word) => Data::Toggle(matches!(
                word.to_ascii_lowercase().as_slice(),
                b"true" | b"yes" | b"on"
            )),
            Scalar::Integer(text) => match integer(text).map_err(Stop::Error)? {
                Some(number) => Data::Integer(number),
                // Unknown unit: there is no value, and the key stays on the stack.
                None => return Ok(()),
            },
            Scalar::Float(text) => Data::Float(float(text).map_err(Stop::Error)?),
            Scalar::Time(text) => Data::Time(time(text).map_err(Stop::Error)?),
            Scalar::Variable(name) => {
                let data = self.variable(name, line)?;
                self.put(Item { data, line, column });
                return Ok(());
            }
        };
        self.put(Item { data: Rc::new(data), line, column });
        Ok(())
    }

    /// Looks the name up in the nearest enclosing map that has it, else in the environment.
    fn variable(&mut self, name: &[u8], line: usize) -> Result<Rc<Data>, Stop> {
        if name.starts_with(BCRYPT_PREFIX) {
            return Ok(Rc::new(Data::Text([b"$", name].concat())));
        }
        for context in self.contexts.iter().rev() {
            if let Context::Map(map) = context
                && let Some(value) = map.get(name)
            {
                value.used_as_variable.set(true);
                return Ok(Rc::clone(&value.data));
            }
        }
        let shown_name = String::from_utf8_lossy(name);
        match self.environment_variable(name) {
            Ok(Some(data)) => Ok(data),
            Ok(None) => Err(Stop::Error(format!(
                "variable reference for '{shown_name}' on line {line} can not be found"
            ))),
            Err(reason) => Err(Stop::Error(format!(
                "variable reference for '{shown_name}' on line {line} could not be parsed: {reason}"
            ))),
        }
    }

    /// Parses the environment variable's text as a value.
    fn environment_variable(&mut self, name: &[u8]) -> Result<Option<Rc<Data>>, String> {
        let shown_name = String::from_utf8_lossy(name).into_owned();
        if self.read.references.borrow().iter().any(|reference| reference == name) {
            return Err(format!("variable reference cycle for '{shown_name}'"));
        }
        let Some(text) = self.surroundings.variable(&shown_name) else { return Ok(None) };
        if self.read.references.borrow().len() >= CONFIG_INCLUDE_DEPTH_MAX {
            return Err(format!("more than {CONFIG_INCLUDE_DEPTH_MAX} references in a row"));
        }
        self.read.count(text.len())?;
        self.read.references.borrow_mut().push(name.to_vec());
        let text = [ENVIRONMENT_KEY, b"=", text.as_bytes()].concat();
        let file = PathBuf::from("");
        let parser = Parser::new(&text, &file, self.surroundings, self.read, self.include_depth);
        let parsed = parser.parse();
        self.read.references.borrow_mut().pop();
        Ok(parsed?.get(ENVIRONMENT_KEY).map(|value| Rc::clone(&value.data)))
    }

    /// Called after `include`: reads the name, and adds that file's keys to the current map.
    fn include(&mut self) -> Result<(), Stop> {
        let name = self.include_name()?;
        self.last_key = None;
        let shown_name = String::from_utf8_lossy(&name).into_owned();
        let failed = |reason: String| {
            Stop::Error(format!("error parsing include file '{shown_name}', {reason}"))
        };
        if self.include_depth >= CONFIG_INCLUDE_DEPTH_MAX {
            return Err(failed(format!("included deeper than {CONFIG_INCLUDE_DEPTH_MAX} files")));
        }
        let path = included_path(&self.file, Path::new(std::ffi::OsStr::from_bytes(&name)));
        let map = parse_file_at(&path, self.surroundings, self.read, self.include_depth + 1)
            .map_err(failed)?;
        if let Some(Context::Map(target)) = self.contexts.last_mut() {
            for (key, value) in map.into_entries() {
                target.insert(key, value);
            }
        }
        Ok(())
    }

    fn include_name(&mut self) -> Result<Vec<u8>, Stop> {
        while is_blank(self.scanner.peek()) {
            self.scanner.next();
        }
        let begins_with = |what: &str| format!("Expected include value but found {what}");
        match self.scanner.peek() {
            quote @ ('\'' | '"') => {
                self.scanner.next();
                let start = self.scanner.position();
                self.skip_to_quote(quote);
                if self.scanner.peek() == END {
                    self.scanner.next();
                    let kind = if quote == '"' { "double quoted" } else { "quoted" };
                    return self.scanner.error(format!("Unexpected EOF in {kind} include"));
                }
                let name = self.scanner.slice(start, self.scanner.position()).to_vec();
                self.scanner.next();
                return Ok(name);
            }
            other => {
                let refused = match other {
                    '[' => Some("start of an array"),
                    '{' => Some("start of a map"),
                    '(' => Some("start of a block"),
                    '-' => Some("start of a number"),
                    '\\' => Some("escape sequence"),
                    newline if is_newline(newline) => Some("new line"),
                    digit if digit.is_ascii_digit() => Some("start of a number"),
                    _ => None,
                };
                if let Some(what) = refused {
                    self.scanner.next();
                    return self.scanner.error(begins_with(what));
                }
            }
        }
        let start = self.scanner.position();
        loop {
            let next = self.scanner.peek();
            if next == '\'' {
                let name = self.scanner.slice(start, self.scanner.position()).to_vec();
                self.scanner.next();
                return Ok(name);
            }
            if is_newline(next) || is_blank(next) || matches!(next, END | ';' | '}') {
                return Ok(self.scanner.slice(start, self.scanner.position()).to_vec());
            }
            self.scanner.next();
        }
    }
}

#[cfg(test)]
mod tests;
