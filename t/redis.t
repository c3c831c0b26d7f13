# The redis block: each way to reach and log in to a server, and what stands in it afterwards.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use Test::More;

my $files = File::Temp::tempdir(CLEANUP => 1);
chmod 0755, $files;
Sluice::Run::spew("$files/password", "open sesame\n");

my $redis = redis(args => [ '--unixsocket', "$files/redis.sock", '--unixsocketperm', '777', '--databases', '4' ]);
my $shut  = redis(args => [ '--requirepass', 'open sesame' ]);
my $admin = redis_up($shut->{port});
is ask($admin, 'AUTH', 'open sesame'), 'OK', 'logged in';
is ask($admin, qw(ACL SETUSER gate on >gate-secret ~limits:* -@all +@connection +eval +evalsha +script|load +time +get +set +mget +del +pexpire +pttl +info +ping +select)), 'OK', 'a user of few rights';

my %blocks = (
    tcp      => "server 127.0.0.1:$redis->{port};",
    local    => "server localhost:$redis->{port};",
    socket   => "server unix:$files/redis.sock;",
    third    => "server 127.0.0.1:$redis->{port}; database 3;",
    prefix   => "server 127.0.0.1:$redis->{port}; key_prefix shop/eu;",
    password => "server 127.0.0.1:$shut->{port}; password 'open sesame';",
    file     => "server 127.0.0.1:$shut->{port}; password_file $files/password; key_prefix file;",
    user     => "server 127.0.0.1:$shut->{port}; username gate; password gate-secret; key_prefix limits;",
    wrong    => "server 127.0.0.1:$shut->{port}; password wrong-hush; breaker open=200ms;",
    none     => "server 127.0.0.1:$shut->{port}; breaker open=200ms;",
    gone     => 'server 127.0.0.1:1; breaker open=200ms;',
    nowhere  => 'server no-such-host.invalid; breaker open=200ms;',
);
my $port = free_port();
my $http = '';
my $locations = '';
for my $name (sort keys %blocks) {
    $http .= "redis $name { $blocks{$name} timeout 2s; }\nrate_limit_zone \$arg_k zone=$name:1m rate=3r/m burst=2 redis=$name;\n";
    $locations .= "location /$name { rate_limit zone=$name nodelay; add_header S \$rate_limit_source always; empty_gif; }\n";
}
my $gateway = gateway(main => 'error_log logs/error.log info;', http => "$http server { listen 127.0.0.1:$port; $locations }");

for my $name (sort grep { !/^(?:wrong|none|gone|nowhere)$/ } keys %blocks) {
    my @answers = burst(6, [$port], "/$name?k=key");
    is count_of(200, @answers), 3, "$name: 3 of 6";
    is scalar(grep { $_->{head} =~ /^S: (?:redis|cache)/m } @answers), 6, "$name: by Redis";
}
for my $name (qw(wrong none gone nowhere)) {
    my @answers = burst(6, [$port], "/$name?k=key");
    is count_of(200, @answers), 3, "$name: 3 of 6";
    is scalar(grep { $_->{head} =~ /^S: fallback/m } @answers), 6, "$name: by this host";
    like $gateway->log, qr/\[error\] .*redis is lost: .*, redis "$name"/, "$name: said once";
}
like $gateway->log, qr/redis is lost: [^\n]*WRONGPASS[^\n]*redis "wrong"/, 'the reason is the server\'s';
unlike $gateway->log, qr/hush|sesame|gate-secret/, 'no secret in the log';

# Beside the limits' states there is one key that tells which gateways are alive.
is join(' ', map { /^shop\/eu:(?:\{[0-9a-f]{32}\}:\w+:g1|gateways)$/ ? 'ours' : $_ } @{ ask($redis->{port}, 'KEYS', 'shop/eu:*') }), 'ours ours', 'key_prefix';
my $third = redis_up($redis->{port});
ask($third, 'SELECT', 3);
is scalar @{ ask($third, 'KEYS', 'sluice:{*') }, 1, 'database';
my %ttl = map { $_ => ask($redis->{port}, 'PTTL', $_) } @{ ask($redis->{port}, 'KEYS', '*{*') };
is scalar(grep { $_ > 50_000 && $_ <= 60_000 } values %ttl), scalar keys %ttl, 'each expires when its bucket is full again';

ok $gateway->quit, 'QUIT ends it';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
done_testing;
