# Users and passwords of Redis: the rights in the README are all that is needed; a right that is missing, and a password that
# is changed meanwhile, cost one clear line in the log and the fallback; a changed password needs a reload at most.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Redis;
use Sluice::Run;
use Test::More;

# A request may take so much longer than the deadline of 50 ms on a machine that does a lot besides.
my $late = 1;

my ($readme) = do { local (@ARGV, $/) = 'README.md'; <> } =~ /ACL SETUSER sluice on >PASSWORD (\S.*)/;
my @rights = split ' ', $readme // '';
cmp_ok scalar(grep {/^[+~-]/} @rights), '>=', 10, 'the rights in the README';

my $files = File::Temp::tempdir(CLEANUP => 1);
chmod 0755, $files;
sub password_file { Sluice::Run::spew("$files/$_[0]", "$_[1]\n") }
password_file(full => 'pw-full');
password_file(other => 'pw-wrong');
password_file(rotated => 'pw-old');

my $redis = server(args => [qw(--requirepass pw-root)], password => 'pw-root');
sub user { my ($name, @words) = @_; $redis->must('ACL', 'SETUSER', $name, @words) }
user('full', 'on', '>pw-full', @rights);
user('rotated', 'on', '>pw-old', @rights);
user('cut', 'on', '>pw-cut', @rights);

my $at    = "server 127.0.0.1:$redis->{port};";
my %good = (
    root    => "$at password pw-root;",
    full    => "$at username full; password_file $files/full; database 3;",
    socket  => "server unix:$redis->{socket}; username full; password pw-full;",
    rotated => "$at username rotated; password_file $files/rotated;",
    cut     => "$at username cut; password pw-cut;",
    # RESP2 will do where HELLO is forbidden.
    hello   => "$at username no_hello; password pw; key_prefix sluice;",
    # Only what is not ours is deleted.
    del     => "$at username no_del; password pw;",
);
# Within a script Redis does not say which command it was.
my $script = qr{NOPERM|user executing the script can't run|ACL failure in script|Error running script};
my %bad = (
    no_password    => [ $at,                                                 qr/NOAUTH/ ],
    wrong_password => [ "$at password pw-wrong;",                            qr/WRONGPASS/ ],
    wrong_file     => [ "$at username full; password_file $files/other;",    qr/WRONGPASS/ ],
    nobody         => [ "$at username nobody; password pw;",                 qr/WRONGPASS/ ],
    off            => [ "$at username off; password pw;",                    qr/WRONGPASS/ ],
    keys           => [ "$at username keys; password pw;",                   qr/NOPERM/ ],
    evalsha        => [ "$at username no_evalsha; password pw;",             qr/NOPERM[^\n]*'evalsha'/ ],
    load           => [ "$at username no_load; password pw;",                qr/NOPERM[^\n]*'script\b/ ],
    time           => [ "$at username no_time; password pw;",                $script ],
    mget           => [ "$at username no_mget; password pw;",                $script ],
    set            => [ "$at username no_set; password pw;",                 $script ],
    select         => [ "$at username no_select; password pw; database 3;",  qr/no permissions to run the 'select' command/ ],
);
my %without = (load => '+script|load', map { $_ => "+$_" } qw(hello del evalsha time mget set select));
for my $name (keys %without) {
    user("no_$name", 'on', '>pw', grep { $_ ne $without{$name} } @rights);
}
user('keys', 'on', '>pw', map {s/^~.*/~other:*/r} @rights);
user('off', 'off', '>pw', @rights);

my ($watch, @ports) = (watch(), free_port());
sub http {
    my ($http, $locations) = ('', '');
    for my $name (sort keys %good, sort keys %bad) {
        my $lines = $good{$name} ? "$good{$name} timeout 2s;" : $bad{$name}[0];
        $http .= "redis $name { $lines breaker open=200ms; }\nrate_limit_zone \$arg_k zone=$name:1m rate=5r/h burst=4 redis=$name;\n";
        $locations .= "location /$name { rate_limit zone=$name nodelay; empty_gif; }\n";
    }
    $http .= "rate_limit_zone \$arg_k zone=wide:1m rate=100000r/h burst=99999 redis=rotated;\nrate_limit_zone \$arg_k zone=refuse:1m rate=5r/h burst=4 redis=set on_error=deny;\n";
    $locations .= "location /wide { rate_limit zone=wide nodelay; empty_gif; }\nlocation /deny { rate_limit zone=refuse nodelay; empty_gif; }\n";
    return (main => 'error_log logs/error.log notice;', http => "$http rate_limit_log_level info; server { listen 127.0.0.1:$ports[0]; $watch $locations }");
}
my $gateway = gateway(http());
sub lost { my $name = shift; my @lines = $gateway->log =~ /\[error\] [^\n]*redis is lost: ([^\n]*), redis "$name"/g; return @lines }
sub back { my $name = shift; my @lines = $gateway->log =~ /redis is back after [^\n]*, redis "$name"/g; return @lines }
sub redis_decides { my $name = shift; wait_until(5, sub { by('redis', burst(1, \@ports, "/$name?k=" . rand)) }) }

for my $name (sort keys %good) {
    ok redis_decides($name), "$name: up";
    my @answers = burst(9, \@ports, "/$name?k=1", at_once => 3);
    is count_of(200, @answers), 5, "$name: 5 of 9";
    is scalar(by('redis|cache', @answers)), 9, "$name: by Redis";
}
for my $name (sort keys %bad) {
    my @answers = load_for(0.1, \@ports, "/$name?k=1", at_once => 4);
    is scalar(by('fallback', @answers)), scalar @answers, "$name: by this host";
    is count_of(200, @answers), 5, "$name: 5 of " . @answers;
    is scalar(unwell(@answers)), 0, "$name: no 5xx";
    cmp_ok slowest(@answers), '<', $late, "$name: none is late";
}
is count_of(503, burst(3, \@ports, '/deny?k=1')), 3, 'on_error=deny: 503';
for my $name (sort keys %bad) {
    ok wait_until(5, sub { lost($name) }), "$name: it is lost";
    my @lines = lost($name);
    is scalar @lines, 1, "$name: one line";
    like $lines[0], $bad{$name}[1], "$name: which says why";
}

# A right is taken away from who is logged in: said once; given back: all is well again, without a reload.
user('cut', '-evalsha');
my @answers = burst(20, \@ports, '/cut?k=2');
is scalar(by('fallback', @answers)), 20, 'taken away: by this host';
is count_of(200, @answers), 5, 'taken away: 5 of 20';
is scalar(lost('cut')), 1, 'taken away: one line';
user('cut', '+evalsha');
ok redis_decides('cut'), 'given back: by Redis';
ok wait_until(5, sub { back('cut') }), 'given back: one line';
# The user is thrown out and deleted, and made again.
$redis->must(qw(ACL DELUSER cut));
@answers = load_for(0.3, \@ports, '/cut?k=3', at_once => 4);
is scalar(unwell(@answers)), 0, 'deleted: no 5xx';
like((lost('cut'))[1], qr/WRONGPASS/, 'deleted: one line');
user('cut', 'on', '>pw-cut', @rights);
ok redis_decides('cut'), 'made again: by Redis';

# A password changes: the new one is added, the file is changed, nginx is reloaded, the old one is removed. Nobody notices.
my $falls = 0;
sub rotated { my @answers = load_for(0.2, \@ports, '/wide?k=1', at_once => 4); $falls += by('fallback', @answers); return unwell(@answers) }
ok redis_decides('rotated'), 'rotation: by Redis';
is scalar(rotated()), 0, 'rotation: before';
user('rotated', '>pw-new');
is scalar(rotated()), 0, 'rotation: two passwords';
password_file(rotated => 'pw-new');
ok $gateway->reload, 'rotation: reloaded';
# New workers connect first.
ok redis_decides('rotated'), 'rotation: by Redis still';
is scalar(rotated()), 0, 'rotation: new workers';
user('rotated', '<pw-old');
$redis->must(qw(CLIENT KILL USER rotated));
ok redis_decides('rotated'), 'rotation: by Redis with the new password alone';
is scalar(lost('rotated')), 0, 'rotation: never lost';

# The other way round: the old password is gone first.
user('rotated', 'resetpass', '>pw-third');
is scalar(rotated()), 0, 'changed: who is logged in goes on';
is scalar(lost('rotated')), 0, 'changed: not lost';
$redis->must(qw(CLIENT KILL USER rotated));
@answers = load_for(0.3, \@ports, '/wide?k=2', at_once => 4);
is scalar(unwell(@answers)), 0, 'changed and thrown out: no 5xx';
ok scalar(by('fallback', @answers)), 'changed and thrown out: by this host';
like((lost('rotated'))[0], qr/WRONGPASS/, 'changed and thrown out: one line that says why');
is scalar(lost('rotated')), 1, 'changed and thrown out: just one';
password_file(rotated => 'pw-third');
ok !wait_until(0.5, sub { by('redis', burst(1, \@ports, '/wide?k=3')) }), 'the file is read at start only';
ok $gateway->reload, 'reloaded';
ok redis_decides('rotated'), 'by Redis with the third password';

ok $gateway->quit, 'QUIT ends it';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
unlike $gateway->log, qr/pw-/, 'no secret in its log';
done_testing;
