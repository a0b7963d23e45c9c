//! Faults of the TOML syntax that the parser reports at the place where it stopped, not where they begin.

/// The tables of which there may be several.
pub(crate) const LISTS: [&str; 5] = ["listener", "origin", "route", "event", "accel"];

/// The offset of the bracket of an array or inline table that is not closed before the next key, the next
/// table or the end.
pub(crate) fn find_unclosed(text: &str) -> Option<usize> {
    let mut open: Vec<usize> = Vec::new();
    let mut offset = 0;
    let mut within: Option<&str> = None;
    for line in text.split_inclusive('\n') {
        if within.is_none() && !open.is_empty() && begins_anew(line, open.last().map(|at| &text[*at..])) {
            return open.last().copied();
        }
        let header = within.is_none() && open.is_empty() && line.trim_start().starts_with('[');
        if !header {
            scan(line, offset, &mut open, &mut within);
        }
        offset += line.len();
    }
    open.last().copied()
}

/// Returns true if a line begins a key or table that can't be within the open bracket.
fn begins_anew(line: &str, open: Option<&str>) -> bool {
    let line = line.trim_start();
    is_header(line) || open.is_some_and(|open| open.starts_with('[')) && is_assignment(line)
}

/// `[name]` or `[[name]]`
fn is_header(line: &str) -> bool {
    let Some(name) = header_name(line) else { return false };
    name.starts_with(|c: char| c.is_ascii_alphabetic()) && !matches!(name, "true" | "false" | "inf" | "nan")
}

/// The name in `[name]`, `[[name]]` or what lacks its end.
pub(crate) fn header_name(line: &str) -> Option<&str> {
    let name = line.trim_start().strip_prefix('[')?;
    let name = name.strip_prefix('[').unwrap_or(name).trim_start();
    let end = |c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c));
    let (name, rest) = name.split_at(name.find(end).unwrap_or(name.len()));
    let rest = rest.trim_start();
    (!name.is_empty() && (rest.is_empty() || rest.starts_with(']'))).then_some(name)
}

/// `key = …`
fn is_assignment(line: &str) -> bool {
    let end = |c: char| !(c.is_ascii_alphanumeric() || "_-.".contains(c));
    let (key, rest) = line.split_at(line.find(end).unwrap_or(line.len()));
    !key.is_empty() && rest.trim_start().starts_with('=')
}

/// Follows brackets and strings through a line.
fn scan<'t>(line: &'t str, offset: usize, open: &mut Vec<usize>, within: &mut Option<&'t str>) {
    let mut at = 0;
    while let Some(rest) = line.get(at..).filter(|rest| !rest.is_empty()) {
        if let Some(quote) = *within {
            if quote.starts_with('"') && rest.starts_with('\\') {
                at += 1 + rest[1..].chars().next().map_or(0, char::len_utf8);
                continue;
            }
            if rest.starts_with(quote) {
                *within = None;
                at += quote.len();
                continue;
            }
        } else if let Some(quote) =
            ["\"\"\"", "'''", "\"", "'"].into_iter().find(|quote| rest.starts_with(quote))
        {
            *within = Some(quote);
            at += quote.len();
            continue;
        } else {
            match rest.as_bytes()[0] {
                b'#' => break,
                b'[' | b'{' => open.push(offset + at),
                b']' | b'}' => drop(open.pop()),
                _ => {}
            }
        }
        at += rest.chars().next().map_or(1, char::len_utf8);
    }
    // A string of one line ends with its line, even if it isn't closed.
    if within.is_some_and(|quote| quote.len() == 1) {
        *within = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text from the bracket on.
    fn at(text: &str) -> Option<&str> {
        find_unclosed(text).map(|at| &text[at..])
    }

    #[test]
    fn a_bracket_that_is_not_closed_is_found_where_it_opens() {
        assert_eq!(at("a = [1\nb = 2\n"), Some("[1\nb = 2\n"));
        assert_eq!(
            at("a = [\"x\",\n  \"y\"\n\n[server]\nthreads = 1\n"),
            Some("[\"x\",\n  \"y\"\n\n[server]\nthreads = 1\n")
        );
        assert_eq!(at("a = { b = 1\n[[route]]\n"), Some("{ b = 1\n[[route]]\n"));
        assert_eq!(at("x = 1\na = {\n"), Some("{\n"));
        assert_eq!(at("a = [[1, 2], [3]\nb.c = 1\n"), Some("[[1, 2], [3]\nb.c = 1\n"));
    }

    #[test]
    fn brackets_that_are_closed_and_those_in_strings_are_none() {
        for good in [
            "",
            "a = [1, [2, 3], { b = 1 }]\n[x]\n[[y]]\nc = 1\n",
            "a = [\n  \"x = [\", # [\n  'y [',\n]\nb = 1\n",
            "a = \"\"\"\n[x\nb = [\n\"\"\"\nc = '''\n{\n'''\n",
            "a = \"\\\"[\"\n[t]\n",
            "a = [\n  [\"b\"],\n  [true],\n]\n",
            "t = {\n  x = 1,\n  y = [2],\n}\n",
        ] {
            assert_eq!(at(good), None, "{good}");
        }
    }

    #[test]
    fn names_of_tables() {
        for (line, name) in [
            ("[route]", Some("route")),
            ("  [[ route ]]  # x", Some("route")),
            ("[route", Some("route")),
            ("[route.cache]", Some("route.cache")),
            ("[\"x\"]", None),
            ("x = [1]", None),
        ] {
            assert_eq!(header_name(line), name, "{line}");
        }
    }
}
