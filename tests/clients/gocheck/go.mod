module ringlog.test/gocheck

go 1.25
