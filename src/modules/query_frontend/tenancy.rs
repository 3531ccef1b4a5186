//! Which tenants a query reads (http-api §2).

use http::HeaderMap;

use crate::base::error_class::ErrorClass;
use crate::model::ids::TenantId;
use crate::services::rpc::status::CallError;

/// The header that names the tenant, or several joined with `|`.
pub const TENANT_HEADER: &str = "x-scope-orgid";

/// How tenants are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenancy {
    /// Off: every request belongs to the single tenant and the header is ignored.
    pub multitenancy_enabled: bool,
    pub multi_tenant_queries_enabled: bool,
}

impl Tenancy {
    /// Returns the tenants of a query, sorted and distinct; never empty.
    pub(super) fn of_query(self, headers: &HeaderMap) -> Result<Vec<TenantId>, CallError> {
        if !self.multitenancy_enabled {
            return Ok(vec![TenantId::single()]);
        }
        let text = headers.get(TENANT_HEADER).map(|value| String::from_utf8_lossy(value.as_bytes())).unwrap_or_default();
        if text.is_empty() {
            return Err(CallError::new(ErrorClass::Unauthenticated, "no org id"));
        }
        let invalid = |error: &dyn std::fmt::Display| CallError::new(ErrorClass::Invalid, error.to_string());
        let mut tenants = text.split('|').map(TenantId::parse).collect::<Result<Vec<_>, _>>().map_err(|error| invalid(&error))?;
        tenants.sort();
        tenants.dedup();
        if tenants.len() > 1 && !self.multi_tenant_queries_enabled {
            return Err(invalid(&"multiple org IDs present"));
        }
        Ok(tenants)
    }
}

/// Returns the label under which the query of `tenants` is counted and logged.
pub(super) fn joined(tenants: &[TenantId]) -> String {
    tenants.iter().map(TenantId::as_str).collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants_of(header: Option<&str>, tenancy: Tenancy) -> Result<String, (ErrorClass, String)> {
        let mut headers = HeaderMap::new();
        if let Some(header) = header {
            headers.insert(TENANT_HEADER, header.parse().unwrap());
        }
        tenancy.of_query(&headers).map(|tenants| joined(&tenants)).map_err(|error| (error.class, error.message))
    }

    #[test]
    fn header_names_the_tenants() {
        let on = Tenancy { multitenancy_enabled: true, multi_tenant_queries_enabled: true };
        assert_eq!(tenants_of(Some("b|a|b"), on), Ok("a|b".into()));
        assert_eq!(tenants_of(None, on), Err((ErrorClass::Unauthenticated, "no org id".into())));
        assert_eq!(tenants_of(Some(""), on), Err((ErrorClass::Unauthenticated, "no org id".into())));
        assert_eq!(tenants_of(Some("a/b"), on), Err((ErrorClass::Invalid, "tenant ID 'a/b' contains unsupported character '/'".into())));
        let single = Tenancy { multi_tenant_queries_enabled: false, ..on };
        assert_eq!(tenants_of(Some("a|b"), single), Err((ErrorClass::Invalid, "multiple org IDs present".into())));
        assert_eq!(tenants_of(Some("a|a"), single), Ok("a".into()));
        let off = Tenancy { multitenancy_enabled: false, ..on };
        assert_eq!(tenants_of(Some("a/b"), off), Ok("single-tenant".into()));
    }
}
