# A cluster of three primaries and three replicas, two gateways of two workers: every key's total is exact while slots move, a
# primary that dies takes only its own keys along, and a second after its replica is primary they are limited by it.
use strict;
use warnings;
use lib 't/lib';
use List::Util 'shuffle';
use Sluice::Certificates;
use Sluice::Load;
use Sluice::Redis;
use Sluice::Run;
use Test::More;
use Time::HiRes 'time';

# A request may take so much longer than the deadline of 50 ms on a machine that does a lot besides.
my $late = 1;

my $cluster = cluster(replicas => 1, args => [qw(--cluster-require-full-coverage no)]);
my ($servers, $watch, @ports) = ($cluster->servers, watch(), free_port(), free_port());
my @gateways = map { gateway(workers => 2, main => 'error_log logs/error.log info;', http => <<"CONF") } @ports;
redis main { mode cluster; $servers }
redis calm { mode cluster; $servers key_prefix calm; timeout 2s; }
rate_limit_zone \$arg_k zone=seed:1m rate=1r/h burst=19 redis=calm;
rate_limit_zone \$arg_k zone=flood:1m rate=1000r/s burst=9999 redis=main;
rate_limit_zone \$arg_k zone=key:1m rate=1r/h burst=19 redis=calm;
rate_limit_zone \$arg_k zone=day:1m rate=30r/1000d algorithm=fixed_window redis=calm;
rate_limit_zone \$arg_g zone=group:1m rate=30r/h algorithm=sliding_window redis=calm;
rate_limit_log_level info;
server {
    listen 127.0.0.1:$_;
    $watch
    location /seed { rate_limit zone=seed nodelay; empty_gif; }
    location /flood { rate_limit zone=flood nodelay; empty_gif; }
    location /key { rate_limit zone=key nodelay; rate_limit zone=day; empty_gif; }
    location /group { rate_limit zone=key nodelay burst=99; rate_limit zone=group; empty_gif; }
}
CONF
my @nodes = $cluster->nodes;

# many($path, $keys, $each): $each requests of each of $keys keys, all mixed up over both gateways; the answers by key.
sub many {
    my ($path, $keys, $each) = @_;
    my @of;
    push @{ $of[$_] }, burst(1, [ $ports[ rand @ports ] ], "$path$_") for shuffle(map { ($_) x $each } 1 .. $keys);
    return @of[ 1 .. $keys ];
}

# Many keys, two limits each.
my @of = many('/key?k=a', 30, 24);
is_deeply [ map { count_of(200, @$_) } @of ], [ (20) x 30 ], 'thirty keys: each 20 of 24';
is scalar(map { by('fallback', @$_) } @of), 0, 'thirty keys: by Redis';
is count_of(200, burst(300, \@ports, '/key?k=many', at_once => 16)), 20, 'one key: 20 of 300, 16 at once';

# Limits of different keys are in different slots: all or nothing all the same.
my @answers = map { burst(9, \@ports, "/group?g=one&k=g$_", at_once => 3) } 1 .. 6;
is count_of(200, @answers), 30, 'over slots: 30 of 54';
cmp_ok count_of(200, burst(120, \@ports, '/group?g=two&k=g1', at_once => 3)), '>=', 29, 'over slots: what was refused has cost nothing';

# Slots on the move: every key of a node, slot by slot, to another one, while requests ask for them and for new ones.
@of = many('/key?k=b', 30, 12);
my @steps = $cluster->moves(0, 1, 'calm:*');
cmp_ok scalar @steps, '>', 50, 'on the move: ' . @steps . ' steps';
my $mover = in_background(0.005, @steps);
my @more = many('/key?k=b', 40, 18);
waitpid $mover, 0;
is $?, 0, 'on the move: all have arrived';
my @both = map { [ @{ $of[$_] || [] }, @{ $more[$_] } ] } 0 .. 39;
is_deeply [ map { count_of(200, @$_) } @both ], [ (20) x 30, (18) x 10 ], 'on the move: each 20 of 30, new ones 18 of 18';
is scalar(map { by('fallback', @$_) } @both), 0, 'on the move: by Redis' or diag map { $_->log =~ /gave no decision[^\n]*/g } @gateways;
is scalar(map { unwell(@$_) } @both), 0, 'on the move: no 5xx';

# dies($name, $dead, $heir, $ports): a primary, under load. Of nine keys some are its own, most likely.
sub dies {
    my ($name, $dead, $heir, $ports) = @_;
    my $used = count_of(200, map { by('redis', burst(12, $ports, "/seed?k=$name$_")) } 1 .. 9);
    is $used, 9 * 12, "$name: nine keys, 12 of 20 before";
    ok wait_until(5, sub { $heir->info('replication') =~ /^slave_repl_offset:(\d+)/m && $dead->info('replication') =~ /^master_repl_offset:$1\r/m }), "$name: replicated";
    my ($began, $acted, $known, $turn, @answers) = (time, 0, 0, 0);
    while (time < ($known ? $known + 1.3 : $began + 20)) {
        push @answers, burst(4, $ports, "/flood?k=$name" . $turn++ % 20, at_once => 4);
        if (!$acted && time > $began + 0.3) { $acted = time; $dead->kill }
        $known = time if $acted && !$known && $heir->role eq 'master';
    }
    ok $known, sprintf '%s: its replica is primary after %.1f s', $name, $known - $acted;
    is scalar(unwell(@answers)), 0, "$name: no 5xx among " . @answers;
    cmp_ok slowest(@answers), '<', $late, "$name: none is late";
    cmp_ok fallback_after($known, @answers), '<=', 1 + slowest(@answers), "$name: limited by Redis again within a second";
    my @after = map { burst(20, $ports, "/seed?k=$name$_") } 1 .. 9;
    is count_of(200, @after), 9 * 8, "$name: nine keys, 8 of 20 after";
    is scalar(by('redis|cache', @after)), 180, "$name: by Redis";
    return @answers;
}
@answers = dies('dies', @nodes[ 2, 5 ], \@ports);
cmp_ok scalar(by('fallback', @answers)), '<', @answers / 2, 'dies: most keys are not touched';
for my $gateway (@gateways) {
    ok $gateway->quit, 'a gateway ends';
    my $log = $gateway->log;
    unlike $log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
    is scalar(() = $log =~ /redis is lost: [^\n]*, redis "\w+"/g), 0, 'the cluster was never lost';
    is scalar(() = $log =~ m{redis is lost: [^\n]*, redis "(?:main|calm)/127\.0\.0\.1:$nodes[2]{port}"}g), 2, 'one primary was: one line for each block';
    is scalar(() = $log =~ m{redis is back after [^\n]*, redis "\w+/}g), 2, 'and one when its slots were back';
}

# Another one that serves no slot unless it serves all, speaks only TLS, wants a certificate, and knows a user of few rights.
my $files = certificates(server => { names => 'IP:127.0.0.1' }, client => { names => 'DNS:gateway.example' });
my ($readme) = do { local (@ARGV, $/) = 'README.md'; <> } =~ /ACL SETUSER sluice on >PASSWORD (\S.*)/;
my @rights = (split(' ', $readme), '+cluster|slots', '+asking');
my $strict = cluster(
    replicas => 1,
    tls      => $files,
    password => 'pw-root',
    args     => [ qw(--requirepass pw-root --masterauth pw-root --tls-auth-clients yes --cluster-require-full-coverage yes --user gate on >pw-gate), @rights ],
);
($servers, @ports) = ($strict->servers, free_port());
my $block = "mode cluster; $servers username gate; password pw-gate; tls on; tls_ca $files/ca.crt; "
    . "tls_certificate $files/client.crt; tls_certificate_key $files/client.key;";
my $gateway = gateway(workers => 2, main => 'error_log logs/error.log notice;', http => <<"CONF");
redis main { $block }
redis calm { $block timeout 2s; }
rate_limit_zone \$arg_k zone=seed:1m rate=1r/h burst=19 redis=calm;
rate_limit_zone \$arg_k zone=flood:1m rate=1000r/s burst=9999 redis=main;
rate_limit_log_level info;
server {
    listen 127.0.0.1:$ports[0];
    $watch
    location /seed { rate_limit zone=seed nodelay; empty_gif; }
    location /flood { rate_limit zone=flood nodelay; empty_gif; }
}
CONF
ok wait_until(5, sub { 60 == by('redis', map { burst(1, \@ports, "/flood?k=$_") } 1 .. 60) }), 'full coverage: up';
dies('all', ($strict->nodes)[ 0, 3 ], \@ports);
ok $gateway->quit, 'full coverage: the gateway ends';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal|pw-/, 'full coverage: nothing bad in its log';
done_testing;
