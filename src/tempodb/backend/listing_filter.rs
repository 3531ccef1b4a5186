//! Takes keys that cannot be ours out of listings, before the client of the store sees them.
//!
//! The `object_store` crate refuses a whole page when one key has an empty segment, a segment `.` or `..`, or a control character, as other
//! programs that share the bucket may write. None of our keys looks like that, so one foreign object must not hide a tenant.

use bytes::Bytes;
use http::Uri;
use memchr::memmem;
use object_store::client::{HttpError, HttpErrorKind, HttpResponse, HttpResponseBody};
use object_store::path::Path;

/// A page has at most 5000 keys of 1 KiB and what is said about them.
const MAX_PAGE_BYTES: usize = 64 << 20;

/// Elements that stand for a key, and the element in them that has it: S3 and GCS, then Azure.
const ENTRIES: [(&str, &str); 4] = [("Contents", "Key"), ("CommonPrefixes", "Prefix"), ("Blob", "Name"), ("BlobPrefix", "Name")];

/// Whether a GET lists objects.
pub(super) fn is_listing(uri: &Uri) -> bool {
    uri.query().unwrap_or_default().split('&').any(|pair| pair == "list-type=2" || pair == "comp=list")
}

/// Returns the same response without entries whose key is no path.
pub(super) async fn without_foreign_keys(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (mut head, body) = response.into_parts();
    let page = body.bytes().await?;
    if page.len() > MAX_PAGE_BYTES {
        let text = format!("a page of a listing has {} bytes, more than {MAX_PAGE_BYTES}", page.len());
        return Err(HttpError::new(HttpErrorKind::Decode, std::io::Error::other(text)));
    }
    head.headers.remove(http::header::CONTENT_LENGTH);
    Ok(HttpResponse::from_parts(head, HttpResponseBody::from(filtered(page))))
}

fn filtered(page: Bytes) -> Bytes {
    let mut kept = Vec::new();
    let mut copied = 0;
    for (start, end) in foreign_entries(&page) {
        kept.extend_from_slice(page.get(copied..start).unwrap_or_default());
        copied = end;
    }
    if copied == 0 {
        return page;
    }
    kept.extend_from_slice(page.get(copied..).unwrap_or_default());
    kept.into()
}

/// Byte ranges of the entries to leave out, ascending.
fn foreign_entries(page: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (entry, key) in ENTRIES {
        let (open, close) = (format!("<{entry}>"), format!("</{entry}>"));
        let mut at = 0;
        while let Some(start) = find(page, at, &open) {
            let Some(end) = find(page, start, &close).map(|end| end + close.len()) else { break };
            let text = page.get(start..end).unwrap_or_default();
            if text_of(text, key).is_some_and(|key| Path::parse(unescaped(&key)).is_err()) {
                found.push((start, end));
            }
            at = end;
        }
    }
    found.sort_unstable();
    found
}

fn find(page: &[u8], from: usize, needle: &str) -> Option<usize> {
    memmem::find(page.get(from..)?, needle.as_bytes()).map(|at| from + at)
}

fn text_of(entry: &[u8], element: &str) -> Option<String> {
    let open = format!("<{element}>");
    let start = find(entry, 0, &open)? + open.len();
    let end = find(entry, start, &format!("</{element}>"))?;
    entry.get(start..end).map(|text| String::from_utf8_lossy(text).into_owned())
}

/// Undoes what can stand for a control character, a dot or a slash.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("&#") {
        let (before, reference) = rest.split_at(at);
        plain.push_str(before);
        let Some(end) = reference.find(';') else { break };
        let (digits, after) = (&reference[2..end], &reference[end + 1..]);
        let code = match digits.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => digits.parse().ok(),
        };
        plain.extend(code.and_then(char::from_u32));
        rest = after;
    }
    plain + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_with_impossible_keys_are_left_out() {
        let page = "<L><Prefix>t</Prefix><Contents><Key>t/a</Key><Size>1</Size></Contents><Contents><Key>t//b</Key></Contents>\
            <Contents><Key>t/c&amp;d</Key></Contents><Contents><Key>t/&#x0A;/e</Key></Contents><Contents><Key>t/../f</Key></Contents>\
            <CommonPrefixes><Prefix>//</Prefix></CommonPrefixes><CommonPrefixes><Prefix>t/</Prefix></CommonPrefixes></L>";
        let left = "<L><Prefix>t</Prefix><Contents><Key>t/a</Key><Size>1</Size></Contents>\
            <Contents><Key>t/c&amp;d</Key></Contents><CommonPrefixes><Prefix>t/</Prefix></CommonPrefixes></L>";
        assert_eq!(filtered(Bytes::from(page)), left);
        assert_eq!(filtered(Bytes::from(left)), left);
        let azure = "<Blobs><Blob><Name>a/./b</Name></Blob><BlobPrefix><Name>a/</Name></BlobPrefix><Blob><Name>c</Name></Blob></Blobs>";
        assert_eq!(filtered(Bytes::from(azure)), "<Blobs><BlobPrefix><Name>a/</Name></BlobPrefix><Blob><Name>c</Name></Blob></Blobs>");
    }

    #[test]
    fn listings_are_told_from_reads() {
        let is = |uri: &str| is_listing(&uri.parse().unwrap());
        assert!(is("http://h/b?list-type=2&prefix=x") && is("http://h/c?restype=container&comp=list") && !is("http://h/b/k?comp=block"));
    }
}
