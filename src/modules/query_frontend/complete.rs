//! `POST /api/traceql/complete`, our own: what may stand at a position of a query, and what is wrong with the query. Editors ask it at every
//! keystroke; names and values of attributes they get from the tag endpoints, of which the answer names the scope and the attribute.
//!
//! ```text
//! {"query": "{ status = ", "position": 11}
//! {"from": 11, "to": 11, "suggestions": [{"text": "error", "kind": "literal"}, …], "namesOf": "span.", "literals": ["string"],
//!  "valuesOf": "status", "errors": [{"message": "…", "line": 1, "column": 12}]}
//! ```
//!
//! Positions count characters (Unicode scalar values).

use axum::body::Body;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::respond::{Answer, Format};
use super::{QueryFrontend, Reply};
use crate::base::error_class::ErrorClass;
use crate::services::rpc::search::Inspection;
use crate::services::rpc::status::CallError;
use crate::traceql::complete::{Completion, complete};
use crate::traceql::error::QueryErrorKind;

/// A query in JSON may take some more bytes than the query.
const MAX_BODY_FACTOR: usize = 4;

#[derive(Debug, Deserialize)]
struct CompletionRequest {
    query: String,
    /// Absent: the end.
    position: Option<usize>,
}

impl QueryFrontend {
    pub(super) async fn complete(&self, body: Body) -> Result<Reply, CallError> {
        let reply = |answer| Reply { answer, inspection: Inspection::default(), jobs: 0 };
        let most = self.config.max_query_expression_size_bytes.saturating_mul(MAX_BODY_FACTOR);
        let Ok(body) = axum::body::to_bytes(body, most).await else {
            return Ok(reply(Answer::text(StatusCode::PAYLOAD_TOO_LARGE, "http: request body too large")));
        };
        let invalid = |error: serde_json::Error| CallError::new(ErrorClass::Invalid, format!("invalid completion request: {error}"));
        let request: CompletionRequest = serde_json::from_slice(&body).map_err(invalid)?;
        let body = self.on_cpu("complete_query", move || answer(&request).to_string().into_bytes()).await?;
        Ok(reply(Answer::ok(Format::Json, body)))
    }
}

fn answer(request: &CompletionRequest) -> Json {
    let text = request.query.as_str();
    let byte_of = |position: usize| text.char_indices().nth(position).map_or(text.len(), |(at, _)| at);
    let position_of = |byte: usize| text.get(..byte).unwrap_or(text).chars().count();
    let Completion { from, to, words, names_of, literals, values_of, error } = complete(text, request.position.map_or(text.len(), byte_of));
    let suggestions: Vec<Json> = words.iter().map(|(word, kind)| json!({"text": word, "kind": kind.as_str()})).collect();
    let mut answer = json!({
        "from": position_of(from),
        "to": position_of(to),
        "suggestions": suggestions,
        "literals": literals.iter().map(|kind| kind.as_str()).collect::<Vec<_>>(),
        "errors": error.iter().map(|error| {
            let mut shown = json!({"message": error.to_string()});
            if let QueryErrorKind::Syntax(position) = error.kind {
                (shown["line"], shown["column"]) = (position.line.into(), position.column.into());
            }
            shown
        }).collect::<Vec<_>>(),
    });
    if let Some(scope) = names_of {
        answer["namesOf"] = scope.into();
    }
    if let Some(attribute) = values_of {
        answer["valuesOf"] = attribute.to_string().into();
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_characters() {
        let request = |query: &str, position| CompletionRequest { query: query.to_owned(), position };
        let found = answer(&request("{ name = \"ü\" && sta }", Some(19)));
        assert_eq!((&found["from"], &found["to"]), (&json!(16), &json!(19)), "{found}");
        let texts: Vec<_> = found["suggestions"].as_array().unwrap().iter().map(|word| word["text"].as_str().unwrap()).collect();
        assert_eq!(texts, ["status", "statusMessage"]);
        assert_eq!(found["errors"].as_array().unwrap().len(), 1);
        let values = answer(&request("{ span.foo = ", None));
        assert_eq!((&values["valuesOf"], &values["errors"][0]["line"]), (&json!("span.foo"), &json!(1)), "{values}");
    }
}
