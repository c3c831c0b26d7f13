# Redis in company: replicas with their sentinels, a cluster, TLS (with Sluice::Certificates). Every server also answers on a unix socket, so that
# a test may ask one that speaks only TLS, and without a password that it does not know.
package Sluice::Redis;

use strict;
use warnings;

use Exporter 'import';
use File::Temp  ();
use POSIX       ();
use Time::HiRes ();

use Sluice::Load;
use Sluice::Run;

our @EXPORT = qw(server sentinels cluster tls_server watch by under_load fallback_after away unwell in_background);

# server(port => N, args => […], password => P): a redis-server; as redis() gives, and ask(@command), with that password.
sub server {
    my %of     = @_;
    my $server = redis(%of, args => [ '--unixsocket', 'redis.sock', '--unixsocketperm', '777', '--repl-diskless-sync-delay', 0, @{ $of{args} || [] } ]);
    chmod 0755, $server->{dir};
    @$server{qw(socket password)} = ("$server->{dir}/redis.sock", $of{password});
    return bless $server, 'Sluice::Redis::Server';
}

# tls_server($files, port => N, args => […], password => P, certificate => NAME): one that speaks nothing but TLS on its
# port; takes any client certificate of the authority "ca", and needs none unless args say so.
sub tls_server {
    my ($files, %of) = @_;
    $of{port} ||= free_port();
    return server(%of, args => [ tls_args($files, $of{port}, $of{certificate}), @{ $of{args} || [] } ]);
}

sub tls_args {
    my ($files, $port, $name) = (@_[ 0, 1 ], $_[2] || 'server');
    my @files = ('--tls-cert-file', "$files/$name.crt", '--tls-key-file', "$files/$name.key", '--tls-ca-cert-file', "$files/ca.crt");
    return ('--port', 0, '--tls-port', $port, '--tls-auth-clients', 'optional', @files);
}

# sentinels(replicas => 2, args => […], conf => TEXT, more => TEXT, tls => FILES, password => P): a primary, its replicas,
# and three sentinels with the lines `conf`, and the lines `more` about the master, that all know of each other.
sub sentinels {
    my %of = @_;
    my @tls = $of{tls} ? (qw(--tls-replication yes)) : ();
    my $start = sub { $of{tls} ? tls_server($of{tls}, @_) : server(@_) };
    my @args  = (@tls, @{ $of{args} || [] });
    my @servers = $start->(args => \@args, password => $of{password});
    my $port = $servers[0]{port};
    push @servers, $start->(args => [ @args, '--replicaof', '127.0.0.1', $port ], password => $of{password}) for 1 .. $of{replicas} // 2;
    my $self = bless { servers => \@servers }, 'Sluice::Redis::Set';
    wait_until(10, sub { $servers[0]->info('replication') =~ /connected_slaves:$#servers\b/ && !grep { !$_->synced } @servers[ 1 .. $#servers ] })
        or die "the replicas do not follow\n";
    $self->{sentinels} = [ map { sentinel($port, %of) } 1 .. 3 ];
    wait_until(15, sub { !grep { !settled($_, scalar @servers - 1) } @{ $self->{sentinels} } }) or die "the sentinels do not settle\n";
    return $self;
}

sub sentinel {
    my ($primary, %of) = @_;
    my $port = free_port();
    my $dir  = File::Temp::tempdir(CLEANUP => 1);
    my $tls  = '';
    if ($of{tls}) {
        my @words = ('--tls-replication', 'yes', tls_args($of{tls}, $port));
        while (my ($name, $value) = splice @words, 0, 2) { $tls .= substr($name, 2) . " $value\n" if $name ne '--port' }
    }
    my $listen = $of{tls} ? 'port 0' : "port $port";
    Sluice::Run::spew("$dir/sentinel.conf", join "\n", $listen, $tls, 'bind 127.0.0.1', "dir $dir", 'unixsocket redis.sock',
        "sentinel monitor m 127.0.0.1 $primary 2", 'sentinel down-after-milliseconds m 500', 'sentinel failover-timeout m 10000',
        'sentinel parallel-syncs m 2', $of{more} // '', $of{conf} // '', '');
    my $self = bless { dir => $dir, port => $port, socket => "$dir/redis.sock", password => $of{sentinel_password} }, 'Sluice::Redis::Server';
    $self->{pid} = Sluice::Run::run('redis-server', "$dir/sentinel.conf", '--sentinel');
    wait_until(10, sub { redis_up($self->{socket}) }) or die "a sentinel did not start\n";
    return $self;
}

# Does this sentinel know of the two others, and of so many replicas that are well?
sub settled {
    my ($sentinel, $replicas) = @_;
    my %master = @{ as_list($sentinel->ask(qw(SENTINEL MASTER m))) };
    return 0 if ($master{'num-other-sentinels'} // 0) < 2 || $master{flags} ne 'master';
    my @slaves = @{ as_list($sentinel->ask(qw(SENTINEL SLAVES m))) };
    return $replicas <= grep { my %slave = @$_; $slave{flags} eq 'slave' && $slave{'master-link-status'} eq 'ok' } @slaves;
}

sub as_list { ref $_[0] eq 'ARRAY' ? $_[0] : [] }

# cluster(replicas => 0 or 1 for each primary, args => […], tls => FILES, password => P): three primaries; their replicas
# follow them in the same order.
sub cluster {
    my %of  = @_;
    my @all = ('--cluster-enabled', 'yes', '--cluster-node-timeout', 1000, $of{tls} ? qw(--tls-cluster yes --tls-replication yes) : ());
    my $start = sub {
        my %node = (port => bus_port(), args => [ @all, @{ $of{args} || [] } ], password => $of{password});
        return $of{tls} ? tls_server($of{tls}, %node) : server(%node);
    };
    my @nodes = map { $start->() } 1 .. 3 + 3 * ($of{replicas} // 0);
    my $self = bless { servers => \@nodes }, 'Sluice::Redis::Cluster';
    my @ends = (0, 5461, 10923, 16384);
    for my $n (0 .. $#nodes) {
        $nodes[$n]->must('CLUSTER', 'SET-CONFIG-EPOCH', $n + 1);
        $nodes[$n]->must('CLUSTER', 'ADDSLOTS', $ends[$n] .. $ends[ $n + 1 ] - 1) if $n < 3;
        $nodes[0]->must('CLUSTER', 'MEET', '127.0.0.1', $nodes[$n]{port}) if $n;
    }
    wait_until(20, sub { !grep { my $nodes = $_->ask('CLUSTER', 'NODES'); $nodes =~ /handshake/ || ($nodes =~ tr/\n//) != @nodes } @nodes })
        or die "the nodes of the cluster do not meet\n";
    $nodes[$_]->must('CLUSTER', 'REPLICATE', $nodes[ $_ - 3 ]->ask('CLUSTER', 'MYID')) for 3 .. $#nodes;
    # Who does not know a replica would not vote for it.
    my $slaves = @nodes - 3;
    wait_until(20, sub { !grep { !$_->is_up($slaves) } @nodes }) && wait_until(20, sub { !grep { !$_->synced } @nodes[ 3 .. $#nodes ] })
        or die "the cluster does not come up\n";
    return $self;
}

# A port with room for the bus, ten thousand above, which must be below those that connections are given by the kernel.
sub bus_port {
    for (1 .. 1000) {
        my $port = free_port();
        next if $port > 22_700;
        return $port if IO::Socket::INET->new(LocalAddr => '127.0.0.1', LocalPort => $port + 10_000, Listen => 1, ReuseAddr => 1);
    }
    die "no free pair of ports\n";
}

# What a request was told, for gateways with the lines of watch() in their server {}.
sub watch { 'add_header S $rate_limit_status:$rate_limit_source always; add_header At $msec always; add_header By $pid always;' }

# by($source, @answers): those that were decided there, a pattern: redis, cache, fallback.
sub by {
    my ($source, @answers) = @_;
    return grep { $_->{head} =~ /^S: \w+:(?:$source)\r?$/m } @answers;
}

# fallback_after($time, @answers): seconds after that time when the last one of them was decided by fallback; 0 if none was.
sub fallback_after {
    my ($time, @answers) = @_;
    my ($last) = sort { $b <=> $a } map { $_->{head} =~ /^At: (\S+)\r?$/m ? $1 : () } by('fallback', @answers);
    return defined $last && $last > $time ? $last - $time : 0;
}

# under_load(\@ports, $path, $act, $known): requests for the path; $act->() after 0.3 s; 1.3 s after $known->() is true, or after
# 20 s, it ends. The answers, when it was known (0: never), and how long all took.
sub under_load {
    my ($ports, $path, $act, $known) = @_;
    my ($began, $acted, $at, $look) = (Time::HiRes::time(), 0, 0, 0);
    my @answers = Sluice::Load::crowd($ports, $path, sub {
        my $now = Time::HiRes::time();
        if (!$acted && $now > $began + 0.3) { $acted = $now; $act->() }
        if ($acted && !$at && $now > $look) { $look = $now + 0.02; $at = $now if $known->() }
        return $now < ($at ? $at + 1.3 : $began + 20);
    }, at_once => 4);
    return (\@answers, $at, Time::HiRes::time() - $began);
}

# away(@answers): from the first to the last one that was decided by fallback, in seconds.
sub away {
    my @at = sort map { $_->{head} =~ /^At: (\S+)\r?$/m } by('fallback', @_);
    return @at ? $at[-1] - $at[0] : 0;
}

# unwell(@answers): those with a status that is neither 200 nor 429, no answer included.
sub unwell {
    return grep { $_->{status} != 200 && $_->{status} != 429 } @_;
}

# in_background($pause, @steps): the steps one after the other, in a process of its own, with a pause after each; its id. It ends
# with status 1 at the first one that dies.
sub in_background {
    my ($pause, @steps) = @_;
    my $pid = fork // die "fork: $!\n";
    return $pid if $pid;
    POSIX::_exit(eval { for my $step (@steps) { $step->(); Time::HiRes::sleep($pause) } 1 } ? 0 : 1);
}

package Sluice::Redis::Server;

our @ISA = 'Sluice::Run::Process';

# ask(@command): as Sluice::Load::ask, over the socket.
sub ask {
    my ($self, @command) = @_;
    my $connection = Sluice::Load::redis_up($self->{socket}) or return '-no connection';
    Sluice::Load::ask($connection, 'AUTH', $self->{password}) if defined $self->{password};
    return Sluice::Load::ask($connection, @command);
}

# must(@command): the same, and it must not fail.
sub must {
    my ($self, @command) = @_;
    my $reply = $self->ask(@command);
    die "@command[ 0, 1 ]: $reply\n" if defined $reply && $reply =~ /^-/;
    return $reply;
}

sub info   { $_[0]->ask('INFO', $_[1]) // '' }
sub role   { $_[0]->info('replication') =~ /^role:(\w+)/m ? $1 : '' }
sub synced { $_[0]->info('replication') =~ /^master_link_status:up/m }

# Is the cluster well as this node sees it, with so many replicas?
sub is_up {
    my ($self, $slaves) = @_;
    my $replicas = () = $self->ask('CLUSTER', 'NODES') =~ /\bslave [0-9a-f]{40}/g;
    return $self->ask('CLUSTER', 'INFO') =~ /cluster_state:ok/ && $replicas == $slaves;
}

# kill(): at once, as a machine does that loses power.
sub kill {
    my $self = shift;
    CORE::kill('KILL', $self->{pid});
    waitpid $self->{pid}, 0;
}

package Sluice::Redis::Set;

# primary(): the server that the first of the sentinels to know better names.
sub primary {
    my $self = shift;
    my ($port) = $self->named;
    return (grep { $_->{port} == ($port // 0) } @{ $self->{servers} })[0];
}

# named(): the port of the master as each sentinel names it.
sub named {
    my $self = shift;
    return map { my $at = $_->ask(qw(SENTINEL GET-MASTER-ADDR-BY-NAME m)); ref $at ? $at->[1] : () } @{ $self->{sentinels} };
}

# moved($port): does any sentinel name another one than this?
sub moved {
    my ($self, $port) = @_;
    return scalar grep { $_ != $port } $self->named;
}

# ready($replicas): do all agree, and do so many replicas follow, so that the next failover can be?
sub ready {
    my ($self, $replicas) = @_;
    my %names = map { $_ => 1 } $self->named;
    return keys %names == 1 && !grep { !Sluice::Redis::settled($_, $replicas) } @{ $self->{sentinels} };
}

# servers(): what a `redis` block needs to find them.
sub servers { join ' ', map {"server 127.0.0.1:$_->{port};"} @{ $_[0]{sentinels} } }

package Sluice::Redis::Cluster;

sub nodes   { @{ $_[0]{servers} } }

# moves($from, $to, $pattern): the steps, each a piece of code, that take the slots of all keys like this which one primary has
# (0, 1 or 2) to another one, as a resharding does it.
sub moves {
    my ($self, $from, $to, $pattern) = @_;
    my @nodes = $self->nodes;
    my ($source, $target) = map { $nodes[$_]->must(qw(CLUSTER MYID)) } $from, $to;
    my (%slots, @steps);
    for my $key (@{ $nodes[$from]->must('KEYS', $pattern) }) { push @{ $slots{ $nodes[$from]->must('CLUSTER', 'KEYSLOT', $key) } }, $key }
    for my $slot (sort keys %slots) {
        my $set  = sub { my ($node, @words) = @_; push @steps, sub { $nodes[$node]->must('CLUSTER', 'SETSLOT', $slot, @words) } };
        my $move = sub { $nodes[$from]->must('MIGRATE', '127.0.0.1', $nodes[$to]{port}, $_[0], 0, 1000) };
        $set->($to, 'IMPORTING', $source);
        $set->($from, 'MIGRATING', $target);
        for my $key (@{ $slots{$slot} }) { push @steps, sub { $move->($key) } }
        # What was made there meanwhile.
        push @steps, sub { $move->($_) for @{ $nodes[$from]->must('CLUSTER', 'GETKEYSINSLOT', $slot, 100) } };
        $set->($_, 'NODE', $target) for $to, $from, 3 - $to - $from;
    }
    return @steps;
}

sub servers { join ' ', map {"server 127.0.0.1:$_->{port};"} @{ $_[0]{servers} }[ 0 .. 2 ] }

1;
