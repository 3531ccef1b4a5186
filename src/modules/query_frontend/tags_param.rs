//! The legacy `tags=` search: logfmt pairs, turned into a TraceQL query.

use super::params::ParamError;

/// Parses `key=value key2="v 2"`; a key without `=` has an empty value. Positions in errors count bytes from 1.
pub(super) fn parse_logfmt(text: &str) -> Result<Vec<(String, String)>, ParamError> {
    let bytes = text.as_bytes();
    let fail = |message: &str, at: usize| ParamError::of("tags", format_args!("{message} at pos {}", at + 1));
    let mut pairs: Vec<(String, String)> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] <= b' ' {
            at += 1;
            continue;
        }
        let key_start = at;
        while at < bytes.len() && bytes[at] > b' ' && bytes[at] != b'=' {
            if bytes[at] == b'"' {
                return Err(fail("unexpected '\"'", at));
            }
            at += 1;
        }
        let key = &text[key_start..at];
        if key.is_empty() {
            return Err(fail("unexpected '='", at));
        }
        let mut value = String::new();
        if bytes.get(at) == Some(&b'=') {
            at += 1;
            if bytes.get(at) == Some(&b'"') {
                let end = quoted_end(bytes, at).ok_or_else(|| fail("unterminated quoted value", bytes.len()))?;
                value = serde_json::from_str(&text[at..end]).map_err(|_| fail("invalid quoted value", at))?;
                at = end;
            } else {
                let value_start = at;
                while at < bytes.len() && bytes[at] > b' ' {
                    if matches!(bytes[at], b'=' | b'"') {
                        return Err(fail(&format!("unexpected '{}'", char::from(bytes[at])), at));
                    }
                    at += 1;
                }
                value = text[value_start..at].to_owned();
            }
        }
        if pairs.iter().any(|(known, _)| known == key) {
            return Err(ParamError::of("tags", format_args!("tag {key} has been set twice")));
        }
        pairs.push((key.to_owned(), value));
    }
    Ok(pairs)
}

/// Returns the position after the closing quote of the string that opens at `open`.
fn quoted_end(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
    None
}

/// Returns the query for a tag search: each tag is found on some span of the trace, and the trace's duration lies between the bounds (milliseconds).
pub(super) fn tags_to_traceql(tags: &[(String, String)], min_millis: Option<u64>, max_millis: Option<u64>) -> String {
    let mut filters: Vec<String> = tags.iter().map(|(key, value)| condition(key, value)).collect();
    if let Some(millis) = min_millis {
        filters.push(format!("traceDuration >= {millis}ms"));
    }
    if let Some(millis) = max_millis {
        filters.push(format!("traceDuration <= {millis}ms"));
    }
    if filters.is_empty() {
        return "{ }".to_owned();
    }
    filters.iter().map(|filter| format!("{{ {filter} }}")).collect::<Vec<_>>().join(" && ")
}

/// A tag is text, so a number or flag is also looked for in its own type.
fn condition(key: &str, value: &str) -> String {
    let text = quoted(value);
    match (key, value) {
        ("name", _) => return format!("name = {text}"),
        ("root.name", _) => return format!("rootName = {text}"),
        ("root.service.name", _) => return format!("rootServiceName = {text}"),
        ("status.code", "ok" | "error" | "unset") => return format!("status = {value}"),
        ("error", "true") => return "status = error".to_owned(),
        _ => {}
    }
    let attribute = format!(".{}", quoted(key));
    let typed = match value {
        "true" | "false" => Some(value.to_owned()),
        _ if value.parse::<i64>().is_ok_and(|number| number.to_string() == value) => Some(value.to_owned()),
        _ => None,
    };
    match typed {
        Some(typed) => format!("{attribute} = {text} || {attribute} = {typed}"),
        None => format!("{attribute} = {text}"),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logfmt_is_parsed_and_refused() {
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(parse_logfmt(r#" a=b  c="d \"e" f "#).unwrap(), [pair("a", "b"), pair("c", "d \"e"), pair("f", "")]);
        for (text, error) in [
            ("a=b a=c", "invalid tags: tag a has been set twice"),
            ("=b", "invalid tags: unexpected '=' at pos 1"),
            ("a=b=c", "invalid tags: unexpected '=' at pos 4"),
            ("a=\"b", "invalid tags: unterminated quoted value at pos 5"),
        ] {
            assert_eq!(parse_logfmt(text).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn tags_become_a_query() {
        let tags = parse_logfmt(r#"service.name=shop http.status_code=500 name="a\"b" error=true"#).unwrap();
        assert_eq!(
            tags_to_traceql(&tags, Some(10), None),
            r#"{ ."service.name" = "shop" } && { ."http.status_code" = "500" || ."http.status_code" = 500 } && { name = "a\"b" } && { status = error } && { traceDuration >= 10ms }"#
        );
        assert_eq!(tags_to_traceql(&[], None, None), "{ }");
    }
}
