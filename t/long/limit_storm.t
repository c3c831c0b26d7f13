# Half a minute of all at once under strict limits: reload each second, workers killed, clients that leave, HTTP/2 streams that are reset
# as soon as they are opened. The limit holds, nothing crashes, nothing grows.
use strict;
use warnings;
use lib 't/lib';
use IO::Socket::INET;
use Sluice::Load;
use Sluice::Oracle;
use Sluice::Run;
use Socket qw(SOL_SOCKET SO_LINGER);
use Test::More;
use Time::HiRes 'time';

plan skip_all => 'a long test: scripts/test --long' if !$ENV{TEST_SLUICE_LONG};

srand 3;
my $seconds = 30;
my ($rate, $capacity) = (100, 21);
my $redis = redis();
my @ports = map { free_port() } 1, 2;
my @h2    = map { free_port() } 1, 2;
my @gateways = map { gateway(main => 'error_log logs/error.log notice;', workers => 2, http => <<"CONF") } 0, 1;
redis main { server 127.0.0.1:$redis->{port}; timeout 2s; breaker failures=100000; }
rate_limit_zone \$arg_k zone=strict:1m rate=${rate}r/s burst=20 redis=main;
rate_limit_zone \$arg_k zone=local:1m rate=${rate}r/s burst=20;
rate_limit_zone \$arg_k zone=slow:1m rate=${rate}r/s burst=200 redis=main;
rate_limit_log_level info;
server {
    listen 127.0.0.1:$ports[$_];
    listen 127.0.0.1:$h2[$_] http2;
    add_header S \$rate_limit_status:\$rate_limit_source always;
    location /strict { rate_limit zone=strict nodelay; empty_gif; }
    location /local  { rate_limit zone=local nodelay; empty_gif; }
    location /slow   { rate_limit zone=slow; empty_gif; }
}
CONF

# What may not grow: descriptors of master and workers, mappings that they share, memory of the master in kB.
sub fds { my $pid = shift; return scalar(() = glob "/proc/$pid/fd/*") }
sub shared {
    my $pid = shift;
    open my $maps, '<', "/proc/$pid/maps" or return 0;
    return scalar grep {m{^\S+ rw-s}} <$maps>;
}
sub memory {
    my $pid = shift;
    open my $status, '<', "/proc/$pid/status" or return 0;
    return (map {/^VmRSS:\s+(\d+)/} <$status>)[0] // 0;
}
sub size_of {
    my $gateway = shift;
    my @workers = sort map { fds($_) } $gateway->workers;
    return { master => fds($gateway->{pid}), workers => "@workers", shared => shared($gateway->{pid}), memory => memory($gateway->{pid}) };
}
sub settled {
    return wait_until(20, sub {
        my @old = grep { my $gateway = $_; $gateway->workers != 2 } @gateways;
        return !@old && 8 == grep { $_->{head} =~ /^S: \w+:(?:redis|cache)/m } burst(8, \@ports, '/strict?k=' . rand, at_once => 8);
    });
}

# A request whose client leaves at once, or with a reset.
sub abort {
    my ($port, $path) = @_;
    my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 1) or return;
    syswrite $socket, "GET $path HTTP/1.1\r\nHost: x\r\n\r\n";
    setsockopt $socket, SOL_SOCKET, SO_LINGER, pack 'll', 1, 0 if rand() < 0.5;
    close $socket;
    return;
}

sub frame { my ($type, $flags, $stream, $text) = @_; return substr(pack('N', length $text), 1) . pack('CCN', $type, $flags, $stream) . $text }

# Streams that are opened and reset in one write.
sub rapid_reset {
    my ($port, $path) = @_;
    my $socket = IO::Socket::INET->new(PeerAddr => "127.0.0.1:$port", Timeout => 1) or return;
    # :method GET, :scheme http, :path literal, :authority literal
    my $head = "\x82\x86\x04" . chr(length $path) . $path . "\x01\x01x";
    my $streams = join '', map { frame(1, 5, 2 * $_ + 1, $head) . frame(3, 0, 2 * $_ + 1, pack 'N', 8) } 0 .. 39;
    syswrite $socket, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" . frame(4, 0, 0, '') . $streams;
    return $socket;
}

ok settled(), 'Redis decides';
ok $_->reload, 'reload' for @gateways;
ok settled(), 'Redis decides';
# The first of everything has been loaded and mapped now.
my @before = map { size_of($_) } @gateways;

my ($start, %did, @open) = (time);
my %every = (
    1.0 => sub { $_->signal('HUP') for @gateways },
    0.7 => sub {
        my @workers = $gateways[ rand 2 ]->workers;
        kill 'KILL', $workers[ rand @workers ] if @workers;
    },
    0.1 => sub { abort($ports[ rand 2 ], (qw(/strict?k=a /slow?k=a /local?k=a))[ rand 3 ]) for 1 .. 8 },
    0.2 => sub {
        push @open, rapid_reset($h2[ rand 2 ], (qw(/strict?k=a /slow?k=b))[ rand 2 ]);
        shift @open if @open > 4;
    },
);
my $storm = sub {
    my $now = time - $start;
    for (keys %every) { next if $now < ($did{$_} // 0) + $_; $did{$_} = $now; $every{$_}->() }
};
my $turn = 0;
my @plan = map { [ $_->[0], $ports[ $turn++ % 2 ], $_->[1] ] } sort { $a->[0] <=> $b->[0] }
    map { my $path = $_; map { [ $_, $path ] } poisson($seconds, 150) } '/strict?k=a', '/local?k=a';
my @answers = arrivals(\@plan, close => 1, meanwhile => $storm);
@open = ();

my %by;
push @{ $by{ $_->{path} }{ $_->{port} } }, $_ for @answers;
my @strict = map {@$_} values %{ $by{'/strict?k=a'} };
is count_of(qr/5\d\d/, @answers), 0, 'no 5xx among ' . @answers;
# Whoever is with a worker that is killed gets nothing.
cmp_ok count_of(0, @answers), '<', @answers / 20, count_of(0, @answers) . ' were with a worker that was killed';
my @in = admitted(@strict);
cmp_ok scalar @in, '<=', bound($capacity, $rate, 1000, $in[-1]{got} - $in[0]{sent}), 'strict: ' . @in . ' of ' . @strict . ' admitted, never more than C + R*t';
# Five seconds at a time: all spans of half a minute are too many to look at.
for my $part (0 .. $seconds / 5 - 1) {
    my @some = grep { my $at = ($_->{sent} - $answers[0]{sent}) / 5e6; $at >= $part && $at < $part + 1 } @in;
    cmp_ok worst_excess(\@some, $capacity, $rate, 1000) // 0, '<=', 0, "strict: nor in any span of seconds " . 5 * $part . ' to ' . 5 * ($part + 1);
}
for my $port (@ports) {
    my @own = admitted(@{ $by{'/local?k=a'}{$port} });
    cmp_ok scalar @own, '<=', bound($capacity, $rate, 1000, $own[-1]{got} - $own[0]{sent}), 'local: ' . @own . ' of ' . @{ $by{'/local?k=a'}{$port} } . ' admitted, never more than C + R*t';
}

ok settled(), 'after the storm: two workers each, and Redis decides';
ok $_->reload, 'reload' for @gateways;
ok settled(), 'Redis decides';
my @after = arrivals([ map { [ $_, $ports[ $turn++ % 2 ], '/strict?k=after' ] } poisson(1, 400) ]);
cmp_ok worst_excess([ admitted(@after) ], $capacity, $rate, 1000), '<=', 0, 'and exactly: ' . admitted(@after) . ' of ' . @after;
is scalar(hasty(\@after, $capacity, $rate, 1000, 15)), 0, 'no less either';

for (0, 1) {
    my ($was, $is) = ($before[$_], undef);
    ok wait_until(10, sub { $is = size_of($gateways[$_]); $is->{master} == $was->{master} }), "gateway $_: as many descriptors of the master" or diag "$was->{master}, now $is->{master}";
    ok wait_until(10, sub { $is = size_of($gateways[$_]); $is->{workers} eq $was->{workers} }), "gateway $_: as many descriptors of the workers" or diag "$was->{workers}, now $is->{workers}";
    is $is->{shared}, $was->{shared}, "gateway $_: as many shared mappings";
    cmp_ok $is->{memory}, '<', $was->{memory} + 4096, "gateway $_: $is->{memory} kB of memory, $was->{memory} before";
    ok $gateways[$_]->quit, 'QUIT ends it';
    my $log = $gateways[$_]->log;
    cmp_ok scalar(() = $log =~ /exited on signal 9/g), '>', 5, "gateway $_: workers were killed";
    my @bad = grep { !/exited on signal 9/ } $log =~ /^(.*(?:\[(?:emerg|alert|crit)\]|panic|exited on signal).*)$/mg;
    is scalar @bad, 0, "gateway $_: nothing bad in its log" or diag join "\n", @bad[ 0 .. ($#bad > 9 ? 9 : $#bad) ];
}
done_testing;
