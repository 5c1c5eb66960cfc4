//! Everything wrong with a configuration file, each with its line, column and the text itself.

use std::fmt;
use std::ops::Range;

use annotate_snippets::{Annotation, AnnotationKind, Level, Renderer, Snippet};
use serde::Serialize;

use super::place::Finding;

/// More are counted, not shown: nobody fixes a hundred at once.
pub(crate) const MAX_SHOWN: usize = 50;

/// Bytes between two places of one snippet.
const LONGEST_SNIPPET: usize = 16 << 10;

/// All errors of one file, in its order.
#[derive(Clone, Debug)]
pub struct Diagnostics {
    file: String,
    source: String,
    items: Vec<Diagnostic>,
    /// Errors beyond [`MAX_SHOWN`].
    left_off: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// The offending text.
    pub text: String,
    #[serde(skip)]
    span: Range<usize>,
    #[serde(skip)]
    other: Option<(Range<usize>, &'static str)>,
}

impl Diagnostics {
    pub(super) fn new(file: &str, source: &str, mut findings: Vec<Finding>) -> Self {
        findings.sort_by_key(|finding| finding.span.start);
        let left_off = findings.len().saturating_sub(MAX_SHOWN);
        let items = findings
            .into_iter()
            .take(MAX_SHOWN)
            .map(|finding| {
                let span = clamp(source, finding.span);
                let (line, column) = position(source, span.start);
                Diagnostic {
                    line,
                    column,
                    message: finding.message,
                    hint: finding.hint,
                    text: source.get(span.clone()).unwrap_or_default().chars().take(200).collect(),
                    span,
                    other: finding.other.map(|(span, label)| (clamp(source, span), label)),
                }
            })
            .collect();
        Self { file: file.to_owned(), source: source.to_owned(), items, left_off }
    }

    pub(super) fn whole_file(file: &str, message: &str, hint: &str) -> Self {
        let finding =
            Finding { span: 0..0, message: message.into(), hint: hint.into(), other: None };
        Self::new(file, "", vec![finding])
    }

    pub(super) fn not_utf8(file: &str, bytes: &[u8], valid_up_to: usize) -> Self {
        let source = String::from_utf8_lossy(bytes);
        let finding = Finding {
            span: valid_up_to..valid_up_to + char::REPLACEMENT_CHARACTER.len_utf8(),
            message: "the file is not UTF-8 text".into(),
            hint: "save it as UTF-8, or check that this is the right file".into(),
            other: None,
        };
        Self::new(file, &source, vec![finding])
    }

    #[must_use]
    pub fn items(&self) -> &[Diagnostic] {
        &self.items
    }

    /// How many errors there are, shown or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.items.len() + self.left_off
    }

    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Snippets for a person; `styled` adds colour.
    #[must_use]
    pub fn render(&self, styled: bool) -> String {
        let renderer = if styled { Renderer::styled() } else { Renderer::plain() };
        let mut out = String::new();
        for item in &self.items {
            match self.snippet(item) {
                Some(snippet) => {
                    let report = [Level::ERROR
                        .primary_title(item.message.as_str())
                        .element(snippet)
                        .element(Level::HELP.message(item.hint.as_str()))];
                    out.push_str(&renderer.render(&report));
                }
                None => out.push_str(&self.line(item)),
            }
            out.push('\n');
        }
        if self.left_off > 0 {
            out.push_str(&format!("and {} more errors\n", self.left_off));
        }
        out
    }

    /// The lines an error is about; `None` where they are too long to be worth showing.
    fn snippet<'a>(&'a self, item: &Diagnostic) -> Option<Snippet<'a, Annotation<'a>>> {
        // Only what is shown is handed over: the renderer takes its time over every byte.
        let other = item.other.as_ref().filter(|(span, _)| {
            let (start, end) = (span.start.min(item.span.start), span.end.max(item.span.end));
            end - start <= LONGEST_SNIPPET
        });
        let spans = || other.map(|(span, _)| span).into_iter().chain([&item.span]);
        let start = spans().map(|span| span.start).min()?;
        let end = spans().map(|span| span.end).max()?;
        let start = self.source[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let end = self.source[end..].find('\n').map_or(self.source.len(), |newline| end + newline);
        if end - start > 2 * LONGEST_SNIPPET {
            return None;
        }
        let within = |span: &Range<usize>| span.start - start..span.end - start;
        let mut snippet = Snippet::source(&self.source[start..end])
            .line_start(position(&self.source, start).0)
            .path(self.file.as_str())
            .annotation(AnnotationKind::Primary.span(within(&item.span)));
        if let Some((span, label)) = other {
            snippet = snippet.annotation(AnnotationKind::Context.span(within(span)).label(*label));
        }
        Some(snippet)
    }

    /// One line each, `FILE:LINE:COLUMN: message (hint)`: for logs and JSON.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        self.items.iter().map(|item| self.line(item)).collect()
    }

    fn line(&self, item: &Diagnostic) -> String {
        let Diagnostic { line, column, message, hint, .. } = item;
        format!("{}:{line}:{column}: {message} ({hint})", self.file)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostics {}

/// The span cut to one line of the source, on character boundaries.
fn clamp(source: &str, span: Range<usize>) -> Range<usize> {
    let start = source.floor_char_boundary(span.start.min(source.len()));
    let end = source.ceil_char_boundary(span.end.clamp(start, source.len()));
    let line_end = source[start..end].find('\n').map_or(end, |newline| start + newline);
    start..line_end
}

fn position(source: &str, at: usize) -> (usize, usize) {
    let before = &source[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
    (line, before[line_start..].chars().count() + 1)
}
