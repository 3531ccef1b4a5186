//! Metrics functions, their grouping, and second stages (metrics, productions).

use super::super::ast::{
    Attribute, Compare, DEFAULT_COMPARE_TOP_N, MetricsExpr, MetricsFunction, MetricsNode, MetricsQuery, Pipeline, SecondStage,
};
use super::super::lexer::TokenKind;
use super::super::types::Static;
use super::operand::{ADDITIVE, Allowed, Node};
use super::{Parsed, Parser};

const NANOS_PER_SECOND: f64 = 1e9;

impl Parser {
    /// Parses a metrics function if one comes next.
    pub(super) fn metrics_function(&mut self) -> Parsed<Option<MetricsFunction>> {
        let TokenKind::Fixed(name) = *self.peek() else {
            return Ok(None);
        };
        let of_attribute: fn(Attribute) -> MetricsFunction = match name {
            "rate" => return self.without_arguments(MetricsFunction::Rate).map(Some),
            "count_over_time" => return self.without_arguments(MetricsFunction::CountOverTime).map(Some),
            "quantile_over_time" => return self.quantile().map(Some),
            "compare" => return self.compare().map(Some),
            "min_over_time" => MetricsFunction::MinOverTime,
            "max_over_time" => MetricsFunction::MaxOverTime,
            "sum_over_time" => MetricsFunction::SumOverTime,
            "avg_over_time" => MetricsFunction::AvgOverTime,
            "histogram_over_time" => MetricsFunction::HistogramOverTime,
            _ => return Ok(None),
        };
        self.advance();
        self.expect("(")?;
        let attribute = self.attribute()?;
        self.expect(")")?;
        Ok(Some(of_attribute(attribute)))
    }

    fn without_arguments(&mut self, function: MetricsFunction) -> Parsed<MetricsFunction> {
        self.advance();
        self.expect("(")?;
        self.expect(")")?;
        Ok(function)
    }

    fn quantile(&mut self) -> Parsed<MetricsFunction> {
        self.advance();
        self.expect("(")?;
        let attribute = self.attribute()?;
        self.expect(",")?;
        let mut quantiles = vec![self.unsigned_number()?];
        while self.accept(",") {
            quantiles.push(self.unsigned_number()?);
        }
        self.expect_one_of(")", &[")", ","])?;
        Ok(MetricsFunction::QuantileOverTime { attribute, quantiles })
    }

    fn unsigned_number(&mut self) -> Parsed<f64> {
        let value = match self.peek() {
            TokenKind::Integer(value) => *value as f64,
            TokenKind::Float(value) => *value,
            _ => return Err(self.unexpected(&["INTEGER", "FLOAT"])),
        };
        self.advance();
        Ok(value)
    }

    fn compare(&mut self) -> Parsed<MetricsFunction> {
        self.advance();
        self.expect("(")?;
        let selection = self.filter()?;
        let mut compare = Compare { selection, top_n: DEFAULT_COMPARE_TOP_N, start_unix_nanos: 0, end_unix_nanos: 0 };
        if self.accept(",") {
            compare.top_n = self.integer()?;
            if self.accept(",") {
                compare.start_unix_nanos = self.integer()?;
                self.expect(",")?;
                compare.end_unix_nanos = self.integer()?;
                self.expect(")")?;
                return Ok(MetricsFunction::Compare(compare));
            }
        }
        self.expect_one_of(")", &[")", ","])?;
        Ok(MetricsFunction::Compare(compare))
    }

    fn integer(&mut self) -> Parsed<i64> {
        let TokenKind::Integer(value) = *self.peek() else {
            return Err(self.unexpected(&["INTEGER"]));
        };
        self.advance();
        Ok(value)
    }

    /// Parses grouping and second stages after a function. `compare()` takes no grouping.
    pub(super) fn metrics_tail(&mut self, pipeline: Pipeline, function: MetricsFunction) -> Parsed<MetricsExpr> {
        let may_group = !matches!(function, MetricsFunction::Compare(_));
        let by = if may_group && self.accept("by") { self.attribute_list()? } else { Vec::new() };
        let second_stages = self.second_stages()?;
        Ok(MetricsExpr { node: MetricsNode::Query(MetricsQuery { pipeline, function, by }), second_stages })
    }

    pub(super) fn second_stages(&mut self) -> Parsed<Vec<SecondStage>> {
        let mut stages = Vec::new();
        loop {
            if let Some(op) = self.comparison() {
                self.advance();
                stages.push(SecondStage::Filter { op, scalar: self.filter_scalar()? });
            } else if self.is("|") && matches!(self.peek_second(), Some(TokenKind::Fixed("topk" | "bottomk"))) {
                self.advance();
                let is_top = self.is("topk");
                self.advance();
                self.expect("(")?;
                let limit = self.integer()?;
                self.expect(")")?;
                stages.push(if is_top { SecondStage::TopK(limit) } else { SecondStage::BottomK(limit) });
            } else {
                return Ok(stages);
            }
        }
    }

    /// Parses the scalar of a comparison; durations become seconds.
    fn filter_scalar(&mut self) -> Parsed<f64> {
        match self.climb(Allowed::SCALAR, ADDITIVE)? {
            Node::Scalar(Static::Duration(nanos)) => Ok(nanos as f64 / NANOS_PER_SECOND),
            Node::Scalar(value) => Ok(value.as_f64().unwrap_or(f64::NAN)),
            Node::Spanset { .. } | Node::Pipeline(_) | Node::ScalarExpr(_) | Node::PipelineScalar(_) | Node::Metrics(_) => {
                Err(self.unexpected(&[]))
            }
        }
    }
}
