//! Messages and services generated from `proto/`; one module a protobuf package.
//!
//! They stop at the edges: gRPC adapters, JSON and record codecs. Inside, a span is OTLP bytes or a `SpanTable`.
#![allow(clippy::all, unreachable_pub, unused_qualifications, missing_docs, reason = "generated code")]

pub mod tempopb {
    tonic::include_proto!("tempopb");

    pub mod common {
        pub mod v1 {
            tonic::include_proto!("tempopb.common.v1");
        }
    }

    pub mod resource {
        pub mod v1 {
            tonic::include_proto!("tempopb.resource.v1");
        }
    }

    pub mod trace {
        pub mod v1 {
            tonic::include_proto!("tempopb.trace.v1");
        }
    }
}

pub mod frontend {
    tonic::include_proto!("frontend");
}

pub mod httpgrpc {
    tonic::include_proto!("httpgrpc");
}

pub mod google {
    pub mod rpc {
        tonic::include_proto!("google.rpc");
    }
}

pub mod opentelemetry {
    pub mod proto {
        pub mod collector {
            pub mod trace {
                pub mod v1 {
                    tonic::include_proto!("opentelemetry.proto.collector.trace.v1");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::tempopb::PushBytesRequest;

    #[test]
    fn record_value_has_the_known_bytes() {
        let record = PushBytesRequest {
            traces: vec![vec![0x0a, 0].into()],
            ids: vec![(0..16).collect::<Vec<u8>>().into()],
            skip_metrics_generation: false,
        };
        let mut expected = vec![0x12, 2, 0x0a, 0, 0x1a, 0x10];
        expected.extend(0..16u8);
        assert_eq!(record.encode_to_vec(), expected);
    }
}
