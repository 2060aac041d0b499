//! The query of a request: `?service=a&state=held`.

use super::body::refusal;
use super::routes::Answer;
use hyper::StatusCode;

/// The pairs of a query, decoded (`application/x-www-form-urlencoded`), each key at most once and one of `known`.
pub(super) fn pairs(query: Option<&str>, known: &[&str]) -> Result<Vec<(String, String)>, Answer> {
    let bad = |why: String| refusal(StatusCode::BAD_REQUEST, &why);
    let mut pairs: Vec<(String, String)> = Vec::new();
    for pair in query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decoded = |text: &str| decode(text).ok_or_else(|| bad(format!("`{text}` is no part of a query")));
        let (key, value) = (decoded(key)?, decoded(value)?);
        if !known.contains(&key.as_str()) {
            return Err(bad(format!("unknown `{key}`, there are: {}", known.join(", "))));
        }
        if pairs.iter().any(|(other, _)| *other == key) {
            return Err(bad(format!("`{key}` is given twice")));
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// None: it is not encoded as it should be.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (digits, after) = rest.split_at_checked(2)?;
                let digit = |b: u8| char::from(b).to_digit(16);
                bytes.push((digit(digits[0])? * 16 + digit(digits[1])?) as u8);
                rest = after;
            }
            _ => bytes.push(first),
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_decoded_and_checked() {
        let found = |query| pairs(Some(query), &["service", "name"]).map_err(|Answer(_, _, why)| why);
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(found(""), Ok(vec![]));
        assert_eq!(found("service=a%20b&name=%C3%a9+x"), Ok(vec![pair("service", "a b"), pair("name", "é x")]));
        assert_eq!(found("service"), Ok(vec![pair("service", "")]));
        for (wrong, why) in [
            ("servce=a", "unknown `servce`, there are: service, name\n"),
            ("name=a&name=b", "`name` is given twice\n"),
            ("name=%f", "`%f` is no part of a query\n"),
            ("name=%+1", "`%+1` is no part of a query\n"),
            ("name=%ff", "`%ff` is no part of a query\n"),
        ] {
            assert_eq!(found(wrong), Err(why.to_owned()), "{wrong}");
        }
    }
}
