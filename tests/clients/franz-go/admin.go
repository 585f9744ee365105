// What kadm can ask an administrator's way.
package main

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"

	. "ringlog.test/gocheck"
)

func quotas(ctx context.Context) {
	user, key := "fg-user", "producer_byte_rate"
	entity := kadm.ClientQuotaEntity{{Type: "user", Name: &user}}
	alter := func(op kadm.AlterClientQuotaOp) error {
		return Get(admin.AlterClientQuotas(ctx, []kadm.AlterClientQuotaEntry{{Entity: entity, Ops: []kadm.AlterClientQuotaOp{op}}}))[0].Err
	}
	described := func() kadm.DescribedClientQuotas {
		return Get(admin.DescribeClientQuotas(ctx, true, []kadm.DescribeClientQuotaComponent{{Type: "user", MatchName: &user}}))
	}
	Must(alter(kadm.AlterClientQuotaOp{Key: key, Value: 2048}))
	Until("the quota", func() bool { return len(described()) == 1 && described()[0].Values[0].Value == 2048 })
	Equal("a quota of nothing", alter(kadm.AlterClientQuotaOp{Key: key, Value: 0}), kerr.InvalidRequest)
	Must(alter(kadm.AlterClientQuotaOp{Key: key, Remove: true}))
	Until("no quota", func() bool { return len(described()) == 0 })
}

func security(ctx context.Context) {
	everything := kadm.NewACLs().AnyResource().Allow().AllowHosts().Deny().DenyHosts().Operations(kadm.OpAny).
		ResourcePatternType(kadm.ACLPatternAny)
	// What was asked for fails one by one.
	for _, found := range Get(admin.DescribeACLs(ctx, everything)) {
		Equal("ACLs", found.Err, kerr.SecurityDisabled)
	}
	_, err := admin.CreateDelegationToken(ctx, kadm.CreateDelegationToken{})
	Equal("a token", err, kerr.DelegationTokenRequestNotAllowed)
	Equal("users", len(Get(admin.DescribeUserSCRAMs(ctx))), 0)
}

func elections(ctx context.Context) {
	create(ctx, "fg-elect", 2, nil)
	topic := kadm.TopicsSet{}
	topic.Add("fg-elect", 0, 1)
	for _, how := range []kadm.ElectLeadersHow{kadm.ElectPreferredReplica, kadm.ElectLiveReplica} {
		for p, result := range Get(admin.ElectLeaders(ctx, how, topic))["fg-elect"] {
			Equal(fmt.Sprint("election of ", p), result.Err, kerr.ElectionNotNeeded)
		}
	}
	node := Get(admin.Metadata(ctx)).Controller
	assign := func(replicas ...int32) error {
		wanted := kadm.AlterPartitionAssignmentsReq{}
		wanted.Assign("fg-elect", 0, replicas)
		return Get(admin.AlterPartitionAssignments(ctx, wanted))["fg-elect"][0].Err
	}
	Must(assign(node))
	Equal("a broker that is not there", assign(node, node+7), kerr.InvalidReplicaAssignment)
	Equal("under way", len(Get(admin.ListPartitionReassignments(ctx, topic))), 0)
}

func features(ctx context.Context) {
	set := func(level int16, kind int8) error {
		update := kadm.FeatureUpdate{Feature: "group.version", MaxVersionLevel: level, UpgradeType: kind}
		return Get(admin.UpdateFeatures(ctx, false, update))["group.version"].Err
	}
	Must(set(1, 1))
	Equal("a level there is not", set(7, 1), kerr.InvalidUpdateVersion)
}

func resources(ctx context.Context) {
	create(ctx, "fg-resource", 1, nil)
	names := map[string]bool{}
	for _, found := range Get(admin.ListConfigResources(ctx)).Resources {
		names[found.Name] = true
	}
	Equal("the topic is listed", names["fg-resource"], true)
	node := Get(admin.Metadata(ctx)).Controller
	set := func(name, value string) error {
		return Get(admin.AlterBrokerConfigs(ctx, []kadm.AlterConfig{{Name: name, Value: &value}}, node))[0].Err
	}
	Must(set("log.retention.ms", "7200000"))
	Equal("a key that needs a start", set("num.partitions", "3"), kerr.InvalidRequest)
	retention := func() string {
		for _, c := range Get(Get(admin.DescribeTopicConfigs(ctx, "fg-resource")).On("fg-resource", nil)).Configs {
			if c.Key == "retention.ms" {
				return c.MaybeValue()
			}
		}
		return ""
	}
	Until("topics take it over", func() bool { return retention() == "7200000" })
	Must(Get(admin.AlterBrokerConfigs(ctx, []kadm.AlterConfig{{Op: kadm.DeleteConfig, Name: "log.retention.ms"}}, node))[0].Err)
	Until("it is as it was", func() bool { return retention() == "604800000" })
}
