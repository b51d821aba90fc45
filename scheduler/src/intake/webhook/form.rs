//! Bodies of HTML forms: `multipart/form-data` (RFC 7578) and `application/x-www-form-urlencoded`.
//! Only text fields are read, in one pass over the body. The number of fields is bounded.

use axum::http::{HeaderMap, header};

/// How many fields a form may have.
const FIELDS_MAX: usize = 200;

/// The longest boundary, in bytes (RFC 2046, section 5.1.1).
const BOUNDARY_MAX: usize = 70;

type Fields = Vec<(String, String)>;

/// Reads the fields of a form, in their order. Returns `None` if the body is not a form.
pub(super) fn read_form(headers: &HeaderMap, body: &[u8]) -> Option<Result<Fields, String>> {
    let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let (essence, parameters) = content_type.split_once(';').unwrap_or((content_type, ""));
    if essence
        .trim()
        .eq_ignore_ascii_case("application/x-www-form-urlencoded")
    {
        let pairs = url::form_urlencoded::parse(body)
            .into_owned()
            .take(FIELDS_MAX);
        return Some(Ok(pairs.collect()));
    }
    if !essence.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let boundary = parameters
        .split(';')
        .filter_map(|parameter| parameter.trim().split_once('='))
        .find(|(name, _)| name.eq_ignore_ascii_case("boundary"))
        .map(|(_, value)| value.trim_matches('"'))
        .filter(|boundary| (1..=BOUNDARY_MAX).contains(&boundary.len()));
    Some(
        boundary
            .ok_or("the form has no boundary".to_owned())
            .map(|boundary| parts(body, boundary)),
    )
}

fn parts(body: &[u8], boundary: &str) -> Fields {
    let text = String::from_utf8_lossy(body);
    let delimiter = format!("--{boundary}");
    text.split(delimiter.as_str())
        .skip(1)
        .take(FIELDS_MAX)
        .filter_map(part)
        .collect()
}

/// Returns name and value of one part. Returns `None` for the end of the form, and for a file.
fn part(part: &str) -> Option<(String, String)> {
    let (head, value) = part.strip_prefix("\r\n")?.split_once("\r\n\r\n")?;
    let disposition = head.lines().find(|line| {
        line.get(..20)
            .is_some_and(|start| start.eq_ignore_ascii_case("content-disposition:"))
    })?;
    if disposition.contains("filename=") {
        return None;
    }
    let (_, name) = disposition.split_once("name=\"")?;
    let (name, _) = name.split_once('"')?;
    Some((
        name.to_owned(),
        value.strip_suffix("\r\n").unwrap_or(value).to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn read(content_type: &'static str, body: &str) -> Option<Result<Fields, String>> {
        let headers =
            HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))]);
        read_form(&headers, body.as_bytes())
    }

    #[test]
    fn both_kinds_of_form_are_read() {
        let wanted = vec![
            ("event".to_owned(), "bounced".to_owned()),
            ("error".to_owned(), "no\r\nroom & none".to_owned()),
        ];
        let multipart = "\
            --xyz\r\nContent-Disposition: form-data; name=\"event\"\r\n\r\nbounced\r\n\
            --xyz\r\nContent-Type: text/plain\r\n\
            content-disposition: form-data; name=\"error\"\r\n\r\nno\r\nroom & none\r\n\
            --xyz\r\nContent-Disposition: form-data; name=\"f\"; filename=\"f\"\r\n\r\n\
            bytes\r\n--xyz--\r\n";
        assert_eq!(
            read("multipart/form-data; boundary=\"xyz\"", multipart),
            Some(Ok(wanted.clone()))
        );
        let encoded = "event=bounced&error=no%0D%0Aroom+%26+none";
        assert_eq!(
            read("application/x-www-form-urlencoded; charset=utf-8", encoded),
            Some(Ok(wanted))
        );
        assert_eq!(read("application/json", "{}"), None);
        assert!(read("multipart/form-data", "--\r\n").unwrap().is_err());
    }

    #[test]
    fn broken_parts_are_left_out_and_the_number_of_fields_is_bounded() {
        for body in [
            "",
            "--x",
            "--x\r\n",
            "--x\r\nname=\"a\"\r\n\r\n",
            "--x--",
            "--x\r\n\r\n\r\n--x--",
        ] {
            assert_eq!(
                read("multipart/form-data; boundary=x", body),
                Some(Ok(Vec::new())),
                "{body:?}"
            );
        }
        let flood = "a=1&".repeat(10_000);
        assert_eq!(
            read("application/x-www-form-urlencoded", &flood)
                .unwrap()
                .unwrap()
                .len(),
            FIELDS_MAX
        );
    }
}
