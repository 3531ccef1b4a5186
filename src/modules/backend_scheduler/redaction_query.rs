//! Which queries may choose traces for removal: one spanset filter, a conjunction of comparisons on span and resource attributes.
//!
//! More would be dangerous: what is removed is gone, so a reader must see at once what a query takes.

use crate::traceql::ast::{
    Attribute, AttributeScope, BinaryOp, FieldExpr, LogicalOp, NamedAttribute, Owner, QueryBody, SpansetExpr, Stage,
};

/// Returns why `query` must not be used.
pub(super) fn check(query: &str) -> Result<(), String> {
    let compiled = crate::traceql::compile(query).map_err(|error| format!("invalid TraceQL query: {error}"))?;
    let QueryBody::Search(pipeline) = &compiled.body else {
        return Err("a metrics query cannot choose traces".to_owned());
    };
    match pipeline.stages.as_slice() {
        [Stage::Spanset(SpansetExpr::Filter(condition))] if compiled.hints.is_empty() => check_condition(condition),
        _ => Err("the query must be one spanset filter without further stages or hints".to_owned()),
    }
}

fn check_condition(condition: &FieldExpr) -> Result<(), String> {
    match condition {
        FieldExpr::Logical { op: LogicalOp::And, operands } => operands.iter().try_for_each(check_condition),
        FieldExpr::Binary { op: BinaryOp::Compare(_) | BinaryOp::Regex | BinaryOp::NotRegex, lhs, rhs } => match (&**lhs, &**rhs) {
            (FieldExpr::Attribute(attribute), FieldExpr::Literal(_)) | (FieldExpr::Literal(_), FieldExpr::Attribute(attribute)) => {
                check_attribute(attribute)
            }
            _ => Err("every comparison must be between an attribute and a value".to_owned()),
        },
        _ => Err("only comparisons joined by && are allowed".to_owned()),
    }
}

fn check_attribute(attribute: &Attribute) -> Result<(), String> {
    match attribute {
        Attribute::Named(NamedAttribute { scope: AttributeScope::Span | AttributeScope::Resource, owner: Owner::Itself, .. }) => Ok(()),
        Attribute::Named(_) | Attribute::Intrinsic(_) => Err("only attributes with the scope span. or resource. are allowed".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn only_plain_conjunctions_pass() {
        for query in [
            r#"{ resource.service.name = "cart" }"#,
            r#"{ span.user.id = "7" && resource.service.name =~ "a.*" && span.n > 5 }"#,
            r#"{ "7" = span.user.id }"#,
        ] {
            assert_eq!(check(query), Ok(()), "{query}");
        }
        for (query, reason) in [
            ("{ true }", "only comparisons joined by && are allowed"),
            ("{ }", "only comparisons joined by && are allowed"),
            (r#"{ span.a = "1" || span.b = "2" }"#, "only comparisons joined by && are allowed"),
            (r#"{ !(span.a = "1") }"#, "only comparisons joined by && are allowed"),
            (r#"{ .a = "1" }"#, "only attributes with the scope span. or resource. are allowed"),
            (r#"{ name = "1" }"#, "only attributes with the scope span. or resource. are allowed"),
            ("{ span.a = span.b }", "every comparison must be between an attribute and a value"),
            (r#"{ span.a = "1" } | count() > 1"#, "the query must be one spanset filter without further stages or hints"),
            (r#"{ span.a = "1" } && { span.b = "1" }"#, "the query must be one spanset filter without further stages or hints"),
            (r#"{ span.a = "1" } | rate()"#, "a metrics query cannot choose traces"),
        ] {
            assert_eq!(check(query).unwrap_err(), reason, "{query}");
        }
        assert!(check("{ span.").unwrap_err().starts_with("invalid TraceQL query: "));
    }
}
