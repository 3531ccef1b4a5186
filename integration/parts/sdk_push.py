"""Sends traces with the OpenTelemetry SDK and prints what it sent.

usage: sdk_push.py grpc|http ENDPOINT none|gzip

The output has the shape of an answer of the query API: {"resourceSpans": [...]}, ids in base64, one entry a span. It is made from the SDK's
span objects, not from what the exporter encodes.
"""

import base64
import json
import sys

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags


def any_value(value):
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    if isinstance(value, str):
        return {"stringValue": value}
    if isinstance(value, bytes):
        return {"bytesValue": base64.b64encode(value).decode()}
    if isinstance(value, (list, tuple)):
        return {"arrayValue": {"values": [any_value(item) for item in value]}}
    raise TypeError(f"{value!r}")


def attributes(mapping):
    return [{"key": key, "value": any_value(value)} for key, value in (mapping or {}).items()]


def number_id(number, size):
    return base64.b64encode(number.to_bytes(size, "big")).decode()


def encode(span):
    context = span.get_span_context()
    out = {
        "traceId": number_id(context.trace_id, 16),
        "spanId": number_id(context.span_id, 8),
        "traceState": context.trace_state.to_header(),
        "name": span.name,
        "kind": "SPAN_KIND_" + span.kind.name,
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "attributes": attributes(span.attributes),
        "events": [
            {"timeUnixNano": str(event.timestamp), "name": event.name, "attributes": attributes(event.attributes)}
            for event in span.events
        ],
        "links": [
            {
                "traceId": number_id(link.context.trace_id, 16),
                "spanId": number_id(link.context.span_id, 8),
                "attributes": attributes(link.attributes),
            }
            for link in span.links
        ],
        "status": {},
    }
    if span.parent is not None:
        out["parentSpanId"] = number_id(span.parent.span_id, 8)
    if span.status.status_code is not StatusCode.UNSET:
        out["status"] = {"code": "STATUS_CODE_" + span.status.status_code.name, "message": span.status.description or ""}
    scope = span.instrumentation_scope
    return {
        "resource": {"attributes": attributes(span.resource.attributes)},
        "scopeSpans": [
            {
                "scope": {"name": scope.name, "version": scope.version or "", "attributes": attributes(scope.attributes)},
                "spans": [out],
            }
        ],
    }


class Recorder(SpanProcessor):
    """Keeps every finished span."""

    def __init__(self):
        self.spans = []

    def on_end(self, span):
        self.spans.append(encode(span))


def make_traces(provider):
    shop = provider.get_tracer("shop.views", "2.1", attributes={"lib.flavour": "plain"})
    stock = provider.get_tracer("stock.client")
    for number in range(10):
        with shop.start_as_current_span("GET /cart", kind=SpanKind.SERVER) as root:
            root.set_attributes(
                {
                    "http.method": "GET",
                    "http.status_code": 200 + number,
                    "http.url": f"http://shop/cart?n={number}",
                    "ratio": number / 7,
                    "cached": number % 2 == 0,
                    "big": 2**62 + number,
                    "negative": -number,
                    "words": ["a", "", "ünï"],
                    "numbers": [1, 2, 3],
                    "flags": [True, False],
                    "doubles": [0.5, 1e300],
                    "text": "line one\nline two \U0001f680",
                }
            )
            root.add_event("cache miss", {"key": "cart", "tries": number})
            elsewhere = SpanContext(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True, TraceFlags(1))
            with stock.start_as_current_span(f"query {number}", kind=SpanKind.CLIENT, links=[Link(elsewhere, {"why": "batch"})]) as child:
                child.set_attribute("db.statement", "SELECT * FROM stock WHERE id = ?")
                if number % 3 == 0:
                    child.set_status(Status(StatusCode.ERROR, "deadlock"))
                    child.record_exception(ValueError(f"number {number}"))
                else:
                    child.set_status(Status(StatusCode.OK))
            with shop.start_as_current_span("render", kind=SpanKind.INTERNAL):
                pass


def main():
    protocol, endpoint, compression = sys.argv[1:]
    if protocol == "grpc":
        from grpc import Compression
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(
            endpoint=endpoint, insecure=True, compression=Compression.Gzip if compression == "gzip" else Compression.NoCompression
        )
    else:
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        exporter = OTLPSpanExporter(
            endpoint=endpoint + "/v1/traces", compression=Compression.Gzip if compression == "gzip" else Compression.NoCompression
        )
    recorder = Recorder()
    provider = TracerProvider(
        resource=Resource.create(
            {"service.name": f"sdk-{protocol}-{compression}", "service.version": "1.0", "host.cpus": 4, "zones": ["a", "b"]}
        )
    )
    provider.add_span_processor(recorder)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=100))
    trace.set_tracer_provider(provider)
    make_traces(provider)
    if not provider.force_flush(20_000):
        sys.exit("not everything was sent")
    provider.shutdown()
    json.dump({"resourceSpans": recorder.spans}, sys.stdout)


main()
