use super::*;

#[test]
fn partitions_are_kafkas() {
    // Taken from a running JVM: the hash, and the partition of 50.
    for (group, hash, partition) in [
        ("", 0, 0),
        ("range", 108_280_125, 25),
        ("roundrobin", -128_548_644, 44),
        ("console-consumer-12345", 158_455_506, 6),
        ("grüße", 98_768_023, 23),
        ("polygenelubricants", i32::MIN, 0),
        ("my-group", -1_906_497_762, 12),
        ("😀", 1_772_899, 49),
    ] {
        assert_eq!(java_hash(group), hash, "{group}");
        assert_eq!(partition_for(group, 50), partition, "{group}");
    }
}
